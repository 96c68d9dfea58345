"""The site's pictures: figures in fewer bytes, and the card that stands beside a link to the site elsewhere."""
import io, textwrap

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

def palette(rgb):
    "The picture with at most 256 colours, or None where that could be seen."
    if colours := Image.fromarray(rgb).getcolors(256): # most figures have no more: nothing is lost
        index = np.zeros(1<<24, np.uint8) # the number of each colour in the palette
        index[[r<<16 | g<<8 | b for _,(r,g,b) in colours]] = np.arange(len(colours))
        red,green,blue = np.moveaxis(rgb.astype(np.uint32), -1, 0)
        small = Image.fromarray(index[red<<16 | green<<8 | blue], 'P')
        small.putpalette([part for _,colour in colours for part in colour])
        return small
    small = Image.fromarray(rgb).quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    wrong = np.abs(np.asarray(small.convert('RGB')).astype(int) - rgb)
    return small if wrong.mean()<.25 and np.percentile(wrong, 99.9)<=16 else None

def encoded(picture):
    "The picture as a PNG file."
    file = io.BytesIO()
    picture.save(file, 'PNG') # `optimize=True` takes six times as long for 6 % less
    return file.getvalue()

def shrink(
    png, # bytes of a PNG file
): # bytes of one that looks the same
    "The same picture in as few bytes as its colours let it."
    picture = Image.open(io.BytesIO(png)).convert('RGBA')
    flat = Image.alpha_composite(Image.new('RGBA', picture.size, 'white'), picture).convert('RGB')
    smaller = [png]
    if (few := palette(np.asarray(flat))) is not None: smaller.append(encoded(few))
    if len(smaller[-1]) > .6*len(png): smaller.append(encoded(flat)) # noise is smaller without a palette
    return min(smaller, key=len)

def card(
    path,     # where to write the PNG
    title,    # name of the site
    subtitle, # what it is, in a sentence
):
    "The picture of a social card, 1200 by 630 pixels: a learning rate that rises and falls, a callback at its top."
    navy,cream,amber = '#1f3a52','#f6f1e5','#e5a63c' # the logo's colours
    figure = Figure(figsize=(12, 6.3), dpi=100, facecolor=navy)
    ax = figure.add_axes([0, 0, 1, 1])
    ax.set(xlim=(0, 12), ylim=(0, 6.3))
    ax.axis('off')
    at = np.linspace(0, 1, 300)
    rate = np.where(at<.3, (1-np.cos(np.pi*at/.3))/2, (1+np.cos(np.pi*(at-.3)/.7))/2)
    ax.plot(1+10*at, .7+1.5*rate, color=cream, lw=7, solid_capstyle='round')
    ax.plot(4, 2.2, 'o', color=amber, ms=26, mec=navy, mew=6)
    ax.text(.95, 4.95, title, color=cream, size=74, weight='bold', va='center')
    ax.text(1, 3.4, textwrap.fill(subtitle, 56), color=cream, size=23, va='center', linespacing=1.5)
    figure.savefig(path)
