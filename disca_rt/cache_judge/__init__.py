"""The judge of cache methods: what each costs, and how near it comes to the sample without one."""
