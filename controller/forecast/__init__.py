"""Honest forecasts: from what is known now to an outlook over the horizon. Pure: no clock, no file is read here."""
