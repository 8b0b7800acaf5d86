"""A year of a site in a minute: policies side by side on one plant, settled at the interval's price."""
