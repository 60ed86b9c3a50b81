"""What vector_search knows without any store or wire: tables, masks, the overlay, and the ports to the rest."""
