"""The bench, in rooms: services (what is measured on), measure (how), rows (what), report (how it is told), and the command."""
