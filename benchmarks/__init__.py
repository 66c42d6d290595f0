"""What is timed, always against something: each row is a ratio, both sides measured in one run, in turns."""
