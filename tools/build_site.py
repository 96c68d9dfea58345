"""Build the site into _docs/, then check every link, anchor and image in it: `python tools/build_site.py`

nbdev processes the notebooks; Quarto renders them where it is on the PATH, and smalldocs, which reads the same
_quarto.yml, where it is not. Both run tools/pre_render.py before and tools/post_render.py after. With Quarto,
`nbdev_docs` makes the same site."""
import shutil, subprocess, sys
from pathlib import Path

from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs
from post_render import page_names
from pre_render import prepare
from site_links import broken_links
from smalldocs_site import rename_pages

ROOT = Path(__file__).resolve().parent.parent
PROC,DOCS = ROOT/'_proc',ROOT/'_docs'

def build():
    "nbdev makes _proc/ from nbs/, a renderer makes the pages in it, and they move to _docs/."
    refresh_quarto_yml()
    shutil.rmtree(PROC, ignore_errors=True) # so that no page of a removed notebook stays
    proc_nbs(n_workers=0) # in this process: each new one would import PyTorch
    quarto = shutil.which('quarto')
    if quarto: command = [quarto, 'render', '--no-cache']
    else:
        prepare(PROC) # before the pages are renamed
        rename_pages(PROC, page_names(PROC))
        command = [Path(sys.executable).with_name('smalldocs'), 'render']
    subprocess.run(command, cwd=PROC, check=True)
    shutil.rmtree(DOCS, ignore_errors=True)
    shutil.move(PROC/'_docs', DOCS)

if __name__ == '__main__':
    build()
    broken = broken_links(DOCS)
    print(*broken, f"{len(list(DOCS.glob('*.html')))} pages in _docs/, {len(broken)} broken links", sep='\n')
    sys.exit(bool(broken))
