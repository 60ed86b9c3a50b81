// Asks whether the server answers.
RETURN 1 AS one
