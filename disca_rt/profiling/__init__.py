"""Profile of one sample: named ranges around its parts become a table, a trace and a page."""
