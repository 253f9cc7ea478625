"""Where the time of one sample goes: from named ranges to a table, a trace and a page."""
