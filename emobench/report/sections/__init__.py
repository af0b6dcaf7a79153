"""The sections of the report: findings in, tables and figures out."""
