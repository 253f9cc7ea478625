"""Model of the kernels' speed from machine code alone: for gate, kernel page and launch table.

`launches` records the kernels' launches at the real models' shapes, `compiled` makes their SASS,
`model` counts what it takes to issue, `table` writes the figures and the launches that follow.
"""
