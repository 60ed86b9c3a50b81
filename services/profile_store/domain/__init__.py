"""The types and rules of profile_store, and the ports to what stores them."""
