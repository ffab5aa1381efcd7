"""How fast pruned models run beside dense engines.

``kernels`` measures single linear layers; ``README.md`` in the folder above says how.
"""
