"""What is searched: one file per question asked, content without machinery.

A space has ``BASE`` (the fixed part), ``space(trial, base)`` (Optuna suggests, a ``TrialConfig`` comes out), ``START``
(published points, tried first), and may have ``REFERENCES`` (other configs run for comparison) and ``TRIALS``.
Parameters carry the names of the fields of ``TrialConfig``, so that ``--set`` can pin them.
"""
