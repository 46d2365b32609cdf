"""The command line of segmentd over HTTP: `segctl`, and the same commands of the server's `segmentd`.

Data goes to standard output, words to standard error. Exit codes: 0; 1 failure; 2 wrong use; 3 a dry run
that found differences.
"""
