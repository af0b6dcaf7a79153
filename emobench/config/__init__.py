"""The sweep file and the cluster profile as typed models, and their expansion into cells."""
