"""Models whose weights belong to a patcher (`forge_objects` of Forge, reForge, Classic and Neo).

The patcher moves, quantises and re-creates parameters by itself, so a parameter that is swapped in beside it would be
lost or moved away. Baked LoRAs are therefore given to the patcher as patches, and their sum is computed by `inject`;
live ones are forward hooks as everywhere. How a patcher takes patches is found out from its attributes, never from the
name of a web UI.

This package imports nothing of a web UI: it runs with any object that has these attributes, and is tested so.
"""
