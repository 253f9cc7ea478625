"""What the kernels' machine code says without a GPU: the gate's, the kernel page's, a launch table.

`launches` records the kernels' launches at the real models' shapes, `compiled` makes their SASS,
`model` counts what it takes to issue, `table` writes the figures and the launches that follow.
"""
