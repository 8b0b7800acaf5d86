"""The demo: the main job on one machine, on real protocols and real prices, faster than life."""
