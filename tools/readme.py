"""Write README.md from nbs/index.ipynb, the same text with or without Quarto: `python tools/readme.py`

With `--check` it writes nothing, and exits with 1 where README.md differs from what it would write."""
import json, re, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

def text_of(output):
    "What an output shows as text."
    return ''.join(output.get('text') or output.get('data', {}).get('text/plain', ''))

def cell_markdown(cell):
    "GitHub Markdown for one cell."
    source = ''.join(cell['source'])
    if cell['cell_type']=='markdown': return re.sub(r'\((\w+\.ipynb)\)', r'(nbs/\1)', source) # links of any checkout
    flags,code = re.findall(r'^#\|\s*(\w+)', source, re.M),re.sub(r'^#\|.*\n?', '', source, flags=re.M).strip()
    if {'hide', 'export', 'default_exp'} & set(flags) or not code: return ''
    shown = ''.join(map(text_of, cell['outputs'])).rstrip()
    return f'```python\n{code}\n```' + (f'\n\n```\n{shown}\n```' if shown else '')

def readme():
    "The text of README.md."
    cells = json.loads((ROOT/'nbs'/'index.ipynb').read_text(encoding='utf-8'))['cells']
    settings = re.compile(r'^- \w+:.*\n?', re.M) # nbdev's, below the title
    cells[0]['source'] = settings.sub('', ''.join(cells[0]['source']))
    note = '<!-- Made from nbs/index.ipynb by tools/readme.py: edit that. -->'
    parts = [note, *filter(None, map(cell_markdown, cells))]
    return '\n\n'.join(part.strip() for part in parts) + '\n'

if __name__ == '__main__':
    text,path = readme(),ROOT/'README.md'
    if '--check' not in sys.argv: path.write_text(text, encoding='utf-8')
    elif not path.exists() or path.read_text(encoding='utf-8')!=text:
        sys.exit('README.md is not what nbs/index.ipynb makes: run `python tools/readme.py`')
