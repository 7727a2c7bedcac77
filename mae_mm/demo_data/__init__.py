"""Demo data: scenes of textured objects on photographs, in the layout of every data set that the recipes use.

One file for each step: `photos` and `textures` (materials), `shapes` and `figures` (objects), `categories`,
`composition` (what is placed where), `painting` (pixels), `scenes` (picture and truth), `annotations` and `layouts`
(files), `generate` (the whole data set), `preview` (a picture of it).
"""
