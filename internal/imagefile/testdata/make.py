"""Writes the picture files of this folder, each beside a PNG of how Pillow decodes it.

python3 -m venv v && v/bin/pip install pillow==13.0.0 numpy==2.4.6 tifffile==2026.3.3 && v/bin/python make.py
"""
import os
import numpy as np
import tifffile
from PIL import Image, ImageOps

os.chdir(os.path.dirname(os.path.abspath(__file__)))
H, W = 18, 27  # odd width: the last column of half-width chroma stands for one pixel
y, x = np.mgrid[0:H, 0:W]
rgb = np.stack([9 * x, 14 * y, 255 - 9 * x], -1)
rgb[4:12, 6:18] = [230, 40, 30]
rgb[8:16, 14:24] = [20, 90, 220]
rgb = np.clip(rgb, 0, 255).astype(np.uint8)
alpha = np.clip(20 * x - 40, 0, 255).astype(np.uint8)
color, rgba = Image.fromarray(rgb), Image.fromarray(np.dstack([rgb, alpha]))
deep = (rgb[..., 0].astype(np.uint16) * 257) ^ 0x0055
exif = Image.Exif()
exif[0x0112] = 6


def save(im, name, **k):
    im.save(name, **k)
    back = ImageOps.exif_transpose(Image.open(name))
    if back.mode == "CMYK":
        back = back.convert("RGB")
    back.save(name.replace(".", "_") + ".png")


save(color, "c420.jpg", quality=90, subsampling=2)
save(color, "c422.jpg", quality=90, subsampling=1)
save(color, "c444.jpg", quality=90, subsampling=0, progressive=True)
save(color.convert("CMYK"), "cmyk.jpg", quality=95)
save(color, "lossy.webp", quality=90)
save(rgba, "lossyalpha.webp", quality=90)
save(rgba, "lossless.webp", lossless=True, exact=True)
save(color, "turned.webp", quality=90, exif=exif)
save(color, "turned.png", exif=exif)
save(color, "turned.tif", exif=exif)
save(color, "lzw.tif", compression="tiff_lzw")
save(color, "packbits.tif", compression="packbits")
save(color.convert("L").convert("1"), "fax.tif", compression="group4")
save(color.quantize(16), "palette.tif")
save(color.quantize(16), "palette.bmp")
save(color, "color.bmp")
tifffile.imwrite("tiled.tif", rgb, tile=(16, 16), compression="zlib", photometric="rgb")
color.save("tiled_tif.png")
tifffile.imwrite("deep.tif", deep, byteorder=">")
tifffile.imwrite("planar.tif", np.moveaxis(rgb, -1, 0).copy(), photometric="rgb", planarconfig="separate")
Image.fromarray(deep).save("deep_tif.png")
