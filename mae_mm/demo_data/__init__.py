"""Demo data: scenes of textured objects on photographs, in the layout of every data set that this project serves.

The flow, one file each: `photos` and `textures` (materials), `shapes` and `figures` (objects), `categories`,
`composition` (what stands where), `painting` (pixels), `scenes` (picture and truth), `annotations` and `layouts`
(files), `generate` (the whole set), `preview` (a picture to look at).
"""
