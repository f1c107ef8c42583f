"""Tables as text: what every format prints."""
