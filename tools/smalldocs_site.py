"""What smalldocs leaves undone, so that its pages come out as Quarto's do: their names, formulas as MathML, pictures in
files of their own and of the size at which the notebook shows them, code in lines."""
import base64, html, json, re

from latex2mathml.converter import convert

def rename_pages(
    proc,  # folder of the processed notebooks
    names, # {file name of a notebook: the name that its page is to have, without suffix}
):
    "Give the notebooks the names of their pages, and rewrite links to them: smalldocs does not read `output-file`."
    # `[text](page.ipynb)`, `[name]: page.ipynb`, and in _quarto.yml `href: page.ipynb`
    starts = [r'\]\(', r'^\[[^]]+\]: ', r'href: ']
    link = re.compile(rf"({'|'.join(starts)})({'|'.join(map(re.escape, names))})(?=[)#\s,}}])", re.M)
    renamed = lambda text: link.sub(lambda m: f'{m[1]}{names[m[2]]}.ipynb', text)
    config = proc/'_quarto.yml'
    config.write_text(renamed(config.read_text(encoding='utf-8')), encoding='utf-8')
    for old,new in names.items():
        notebook = json.loads((proc/old).read_text(encoding='utf-8'))
        for cell in notebook['cells']:
            if cell['cell_type']=='markdown': cell['source'] = renamed(''.join(cell['source']))
        front = ''.join(notebook['cells'][0]['source'])
        notebook['cells'][0]['source'] = re.sub(r'^output-file:.*\n', '', front, flags=re.M)
        (proc/old).unlink()
        (proc/f'{new}.ipynb').write_text(json.dumps(notebook), encoding='utf-8')

def picture_sizes(proc):
    "{a picture in base64: its size in pixels in the notebook}; a retina picture has twice as many of its own"
    notebooks = [json.loads(path.read_text(encoding='utf-8')) for path in proc.glob('*.ipynb')]
    outputs = [output for notebook in notebooks for cell in notebook['cells'] for output in cell.get('outputs', [])]
    pictures = [output for output in outputs if 'image/png' in output.get('data', {})]
    sizes = [(output['data']['image/png'], output['metadata'].get('image/png', {})) for output in pictures]
    return {''.join(png).strip(): size for png,size in sizes if size}

def unpack_pictures(text, page, sizes):
    """Pictures as files in figures/, instead of in the page, so that the text is there before they are; each with its
    size, which smalldocs does not read: it would draw them as wide as the column lets it."""
    folder = page.parent/'figures'
    folder.mkdir(exist_ok=True)
    numbers = iter(range(1, 1000))
    def unpacked(match):
        path = folder/f'{page.stem}-{next(numbers)}.png'
        path.write_bytes(base64.b64decode(match[1]))
        return f'src="figures/{path.name}"' + ''.join(f' {k}="{v}"' for k,v in sorted(sizes.get(match[1], {}).items()))
    return re.sub(r'src="data:image/png;base64,([A-Za-z0-9+/=\s]+)"', unpacked, text)

def mathml(match):
    "MathML for a formula that smalldocs left as TeX for KaTeX, which it would fetch from another host."
    display,tex = match[1],html.unescape(match[2])
    formula = convert(tex, display='block' if display=='display' else 'inline')
    formula = formula.replace('<mo>&#x0002F;</mo>', '<mi>/</mi>') # TeX sets no space around a slash
    return f'<span class="math {display}">{formula}</span>'

def formulas(text):
    "Formulas as MathML, and no KaTeX."
    text = re.sub(r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', mathml, text, flags=re.S)
    return re.sub(r'<(link|script)[^>]*katex[^>]*>(</script>)?', '', text)

def breakable(line):
    "Let a narrow page break a long run without a space after `(` and `,` or before `.`, not in the middle of a word."
    plain = html.unescape(re.sub(r'<[^>]+>', '', line))
    if max(map(len, plain.split()), default=0) < 20: return line
    parts = re.split(r'(<[^>]+>)', line)
    gap = re.compile(r'[(,](?=[^\s)])|(?<=[\w)\]])(?=\.[a-z_])', re.I)
    parts[::2] = [gap.sub(r'\g<0><wbr>', part) for part in parts[::2]]
    return ''.join(parts)

def code_lines(match):
    "Put each line of code in a span, as Quarto does, with its indent: nbs/styles.css shifts what is broken off."
    lines,inside = [],[] # inside: tags of spans that go on in the next line
    for line in match[2].split('\n'):
        plain = html.unescape(re.sub(r'<[^>]+>', '', line))
        indent,starts = len(plain)-len(plain.lstrip()),''.join(inside)
        for tag in re.findall(r'</?span[^>]*>', line): inside.append(tag) if tag[1]!='/' else inside.pop()
        style = f' style="--indent:{min(indent, 12)}ch"' if indent and plain.strip() else ''
        lines.append(f'<span class="line"{style}>{starts}{breakable(line)}{"</span>"*len(inside)}')
    return match[1] + '</span>\n'.join(lines) + '</span>' + match[3] # the line's end outside: inside, it's copied twice

def hanging_lines(text):
    "Code in which the rest of a broken line doesn't look like a line of its own, which Python would read differently."
    return re.sub(r'(<pre class="sourceCode[^>]*><code[^>]*>)(.*?)(</code>)', code_lines, text, flags=re.S)

def view_source(text, names):
    "The `View source` link of a page leads to the notebook by the name it has in nbs/."
    for old,new in names.items(): text = text.replace(f'/nbs/{new}.ipynb"', f'/nbs/{old}"')
    return text
