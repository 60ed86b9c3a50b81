"""Messages to domain and back, checked on the way in."""
