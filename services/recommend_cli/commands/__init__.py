"""What each subcommand of `recommend` does."""
