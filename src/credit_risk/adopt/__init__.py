"""`main.py adopt`: from a file of rows to a first contract, cleaning, features and parameters, written once."""
