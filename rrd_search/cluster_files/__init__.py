"""The kinds of cluster files that `make cluster-check` knows. Of each: what is wrong with one, and a few words for a
good one. A problem is one text that names the place, what was wrong there and what is valid."""
