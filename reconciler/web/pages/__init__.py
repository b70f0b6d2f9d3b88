"""What browsers ask for: the pages of `page/`, what can be done on them, and what keeps open ones fresh."""
