"""What `make demo` shows: real films, three visitors, and a list that changes at once."""
