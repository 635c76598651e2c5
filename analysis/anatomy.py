"""Glossary: the axes used in every signature and shape comment of the project.

B  images of a batch                     L  blocks
H  heads of a block                      N  tokens, prefix tokens included
D  channels of a head; Dqk for queries and keys, Dv for values, where they differ
E  embedding width (residual stream)     F  hidden neurons of an MLP
C  image channels                        Y, X  image height and width in pixels

The structures that can be removed, under the names used everywhere:

qk     query-key pairs of a head: channel i of its queries together with channel i of its keys
v      value neurons of a head, with the columns of `proj` that read them
mlp    MLP neurons: a row of `fc1` (two where the MLP is gated) with its column of `fc2`
heads  whole heads: all their query-key pairs and value neurons
embed  channels of the residual stream, through the whole network
"""

STRUCTURES = ("qk", "v", "mlp", "heads", "embed")
