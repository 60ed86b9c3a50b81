"""What every service is built from: knows no service, no proto of ours, no business word."""
