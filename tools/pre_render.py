"""What both renderers of the site, Quarto and smalldocs, run before they read the processed notebooks: nbs/_quarto.yml
names this script. They start it in the project's folder, _proc/, so `nbdev_docs` and `nbdev_preview` use it, too."""
import json, os, re
from pathlib import Path

from entries import entries
from nbdev.config import get_config
from page_furniture import changelog_page
from pictures import card

def joined(text):
    "A text of a notebook, which may be a list of lines."
    return text if isinstance(text, str) else ''.join(text)

def plain_comments(code):
    "Code without the links that nbdev puts around backticked symbols in comments."
    return re.sub(r'\[(`[^`]+`)\]\(https?://[^)\s]*\)', r'\1', code)

def plain_code(
    notebook, # a processed notebook, which is changed
):
    "Take the links out of all code, also in the signatures that an entry shows."
    block = re.compile('^```.*?^```', re.M|re.S)
    for cell in notebook['cells']:
        if cell['cell_type']!='code': continue
        source = plain_comments(joined(cell['source']))
        cell['source'] = source.splitlines(keepends=True) # as one text, Quarto would join them
        for data in (output['data'] for output in cell['outputs'] if 'text/markdown' in output.get('data', {})):
            markdown = joined(data['text/markdown'])
            data['text/markdown'] = block.sub(lambda code: plain_comments(code[0]), markdown)

def prepare(
    proc, # folder of the processed notebooks
):
    "What can be prepared twice without harm: `nbdev_preview` renders again after each change."
    cfg = get_config()
    for path in proc.glob('*.ipynb'):
        before = path.read_text(encoding='utf-8')
        notebook = json.loads(before)
        entries(notebook)
        if path.name=='changelog.ipynb': changelog_page(notebook, cfg)
        plain_code(notebook)
        text = json.dumps(notebook)
        if text!=before: path.write_text(text, encoding='utf-8') # else a preview would render it again
    if not (proc/'card.png').exists(): card(proc/'card.png', cfg.title, cfg.description)

if __name__ == '__main__':
    if 'SMALLDOCS' not in os.environ: prepare(Path.cwd()) # else tools/build_site.py has done it
