"""The figures: plain values in, shapes out."""
