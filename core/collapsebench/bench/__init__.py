"""How fast stacks are trained on this machine, and how soon they reach equilibrium."""
