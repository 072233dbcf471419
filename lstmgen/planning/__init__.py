"""From equations to a plan: what runs when, in one stage or another, and where values live."""
