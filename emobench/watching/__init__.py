"""`emobench watch`: what a run is doing, read again and again and shown on one screen."""
