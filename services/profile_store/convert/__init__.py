"""Messages to domain and back; one function for each thing that travels."""
