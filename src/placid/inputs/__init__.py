"""What comes from outside: text in whatever encoding (text), rows in whatever format (rows), names (names).

Everything here gives a checked value or a BadInputError: one sentence with file, row, value and what would be right.
"""
