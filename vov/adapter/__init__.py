"""θ̂ as layers: which linears are adapted, and how one vector makes all of their low-rank factors.

    unilora   indices, expansion, the adapted layer          adapt   a specification put into a model
"""
