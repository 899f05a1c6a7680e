"""Technical ground shared by every context; it knows no business words."""
