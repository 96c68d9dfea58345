"""What smalldocs leaves undone, so that its pages come out as Quarto's do: their names, formulas as MathML, pictures
in files of their own and of the size that the notebook shows them at, code in lines, a search that knows every word
and every question."""
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
        notebook['cells'][0]['source'] = re.sub(r'^output-file:.*\n', '', ''.join(notebook['cells'][0]['source']), flags=re.M)
        (proc/old).unlink()
        (proc/f'{new}.ipynb').write_text(json.dumps(notebook), encoding='utf-8')

def picture_sizes(proc):
    """{a picture in base64: the size in pixels at which its notebook shows it}; a retina picture has twice as many of
    its own"""
    outputs = [output for path in proc.glob('*.ipynb') for cell in json.loads(path.read_text(encoding='utf-8'))['cells'] for output in cell.get('outputs', [])]
    sizes = [(output['data']['image/png'], output['metadata'].get('image/png', {})) for output in outputs if 'image/png' in output.get('data', {})]
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
    return re.sub(r'src="data:image/png;base64,([^"]+)"', unpacked, text)

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
    """Where a long run without a space can be broken on a narrow page, rather than in the middle of a word: after `(`
    and `,`, before `.`"""
    plain = html.unescape(re.sub(r'<[^>]+>', '', line))
    if max(map(len, plain.split()), default=0) < 20: return line
    parts = re.split(r'(<[^>]+>)', line)
    parts[::2] = [re.sub(r'[(,](?=[^\s)])|(?<=[\w)\]])(?=\.[a-z_])', r'\g<0><wbr>', part, flags=re.I) for part in parts[::2]]
    return ''.join(parts)

def code_lines(match):
    """Each line of code in a span, as Quarto has it, that knows how far it is indented: nbs/styles.css sets what is
    broken off further in."""
    lines,inside = [],[] # inside: tags of spans that go on in the next line
    for line in match[2].split('\n'):
        plain = html.unescape(re.sub(r'<[^>]+>', '', line))
        indent,starts = len(plain)-len(plain.lstrip()),''.join(inside)
        for tag in re.findall(r'</?span[^>]*>', line): inside.append(tag) if tag[1]!='/' else inside.pop()
        style = f' style="--indent:{min(indent, 12)}ch"' if indent and plain.strip() else ''
        lines.append(f'<span class="line"{style}>{starts}{breakable(line)}{"</span>"*len(inside)}')
    return match[1] + '\n</span>'.join(lines) + '</span>' + match[3]

def hanging_lines(text):
    """Code in which the second half of a broken line does not look like a line of its own, which in Python would mean
    something else."""
    return re.sub(r'(<pre class="sourceCode[^>]*><code[^>]*>)(.*?)(</code>)', code_lines, text, flags=re.S)

def view_source(text, names):
    "The `View source` link of a page leads to the notebook by the name it has in nbs/."
    for old,new in names.items(): text = text.replace(f'/nbs/{new}.ipynb"', f'/nbs/{old}"')
    return text

def plain(text):
    "Text without tags; those inside of a line leave no space behind."
    text = re.sub(r'<(script|style)\b.*?</\1>', '', text, flags=re.S)
    text = re.sub(r'</?(span|a|code|em|strong|b|i|wbr)\b[^>]*>', '', text)
    return ' '.join(html.unescape(re.sub(r'<[^>]+>', ' ', text)).split())

def search_index(docs):
    """What the search field knows, from the finished pages: smalldocs leaves out whatever stands in code between a
    `<` and the next `>`, and has no entries for questions."""
    entries = json.loads((docs/'search.json').read_text(encoding='utf-8'))
    for path in docs.glob('*.html'):
        page = path.read_text(encoding='utf-8')
        main = page[page.index('<main'):page.index('</main>')]
        parts = re.split(r'<(?:section|h[1-6]) id="([^"]+)"[^>]*>', main)
        texts = {path.name: parts[0]} | {f'{path.name}#{anchor}': body for anchor,body in zip(parts[1::2], parts[2::2])}
        for entry in entries:
            if entry['href'] in texts: entry['text'] = plain(texts[entry['href']])
        title = next(entry['title'] for entry in entries if entry['href'].split('#')[0]==path.name)
        questions = re.findall(r'<details id="(question-[^"]+)"[^>]*>\s*<summary>(.*?)</summary>(.*?)</details>', main, re.S)
        for anchor,question,answer in questions:
            href = f'{path.name}#{anchor}'
            entries.append(dict(objectID=href, href=href, title=title, section=plain(question), text=plain(answer)))
    (docs/'search.json').write_text(json.dumps(entries, ensure_ascii=False), encoding='utf-8')
