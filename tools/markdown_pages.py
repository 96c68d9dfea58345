"""The site for those who read Markdown rather than pages, language models among them (llmstxt.org): llms.txt, and
beside each page `page.html` its copy `page.html.md`. Both are made from the notebooks as nbdev has processed them for
the site."""
import html, json, re

import yaml

def front_matter(notebook):
    "What nbdev wrote at the top of a processed notebook: title, description and the name of its page."
    return yaml.safe_load(''.join(notebook['cells'][0]['source']).strip().strip('-'))

def fenced(text, language=''):
    "A block of code or printed text; its fence is longer than any in it."
    fence = '`'*max([3, *(len(ticks)+1 for ticks in re.findall('`{3,}', text))])
    return f'{fence}{language}\n{text.strip(chr(10))}\n{fence}'

def from_html(text):
    "What HTML says, for what has no other form: its headings, paragraphs, lists and code."
    marks = {r'<h\d[^>]*>(.*?)</h\d>': r'\n\n**\1**\n\n', '<p>': '\n\n', '<ul>': '\n', '<li>': '\n- '}
    parts = re.split(r'<pre[^>]*>(.*?)</pre>', text, flags=re.S)
    for i,part in enumerate(parts):
        if not i%2:
            for pattern,mark in marks.items(): part = re.sub(pattern, mark, part)
        part = html.unescape(re.sub(r'<[^>]+>', '', part))
        parts[i] = fenced(part, 'python') if i%2 else part.strip()
    return '\n\n'.join(filter(None, parts))

class Copier:
    "Turns processed notebooks into Markdown whose links lead from copy to copy."
    def __init__(self,
        names, # {file name of a notebook: name of its page, without suffix}
        home,  # address of the site, by which nbdev links symbols
    ): self.names,self.home = names,re.escape(home)

    def links(self, text):
        "Links to notebooks and pages lead to the copies; code loses the links that nbdev put into its comments."
        def copy(link): return f'{link[1]}{self.names[link[2]]}.html.md' if link[2] in self.names else link[0]
        parts = re.split(r'(^```.*?^```)', text, flags=re.M|re.S)
        for i,part in enumerate(parts):
            if i%2: parts[i] = re.sub(r'\[(`[^`]+`)\]\([^)\s]*\)', r'\1', part)
            else:
                part = re.sub(r'(?<=[\])])\{[^}\n]*\}', '', part) # attributes of a link
                part = re.sub(rf'{self.home}([\w.-]+\.html)', r'\1.md', part)
                parts[i] = re.sub(r'(\]\(|^\[[^]]+\]: )([\w.-]+\.ipynb)', copy, part, flags=re.M)
        return ''.join(parts)

    def prose(self, text):
        "Quarto's own Markdown made plain: a callout, or what else is folded, is a bold line and the text under it."
        text = re.sub(r'<!--.*?-->', '', text, flags=re.S)
        def bold(callout): return f'**{callout[1]}**' if callout[1] else ''
        text = re.sub(r'^:{3,} *\{[^}\n]*callout[^}\n]*\}\n+(?:#+ (.*))?', bold, text, flags=re.M)
        text = re.sub(r'^:{3,}.*\n?', '', text, flags=re.M)
        text = re.sub(r'<details>\s*<summary>(.*?)</summary>(.*?)</details>', r'**\1**\2', text, flags=re.S)
        return self.links(text)

    def output(self, output, alt):
        "What a cell printed or showed, as text; a picture as its description."
        if output['output_type']=='stream': return fenced(''.join(output['text']))
        data = {kind: ''.join(part) if isinstance(part, list) else part for kind,part in output.get('data', {}).items()}
        if 'text/markdown' in data: return self.prose(data['text/markdown'])
        if any(kind.startswith('image/') for kind in data): return f'*Picture: {alt or "without a description"}*'
        if data.get('text/plain', '').startswith('<IPython'): return from_html(data['text/html'])
        return fenced(data['text/plain']) if 'text/plain' in data else ''

    def code(self, cell):
        "A code cell: the heading of its fold, its source, its outputs, each only where the page has it."
        lines = ''.join(cell['source']).split('\n')
        options = [line[2:].strip() for line in lines if line.startswith('#|')]
        options = {key: value.strip().strip('"\'') for key,_,value in (option.partition(':') for option in options)}
        source = '\n'.join(line for line in lines if not line.startswith('#|'))
        if options.get('include')=='false': return []
        shown = [] if options.get('echo')=='false' or not source.strip() else [fenced(source, 'python')]
        if shown and (summary := options.get('code-summary')): shown.insert(0, f'*{summary}:*')
        outputs = [] if options.get('output')=='false' else cell.get('outputs', [])
        return shown + [self.output(output, options.get('fig-alt')) for output in outputs]

    def page(self, notebook):
        "The Markdown copy of a page."
        front = front_matter(notebook)
        parts = [f"# {front['title']}", f"> {front['description']}"]
        for cell in notebook['cells'][1:]:
            parts += self.code(cell) if cell['cell_type']=='code' else [self.prose(''.join(cell['source']))]
        return '\n\n'.join(part.strip('\n') for part in parts if part.strip()) + '\n'

def reading_order(config):
    "The notebooks in the order of the sidebar, which is the order to read them in."
    website = yaml.safe_load(config.read_text(encoding='utf-8'))['website']
    return [entry['href'] for entry in website['sidebar']['contents']]

def markdown_copies(
    proc, # folder of the processed notebooks and their _quarto.yml
    names, home, # as in Copier
    title, description, # of the site
): # {file name: text}
    "The copy of each page, and llms.txt, which lists them."
    copier,order = Copier(names, home),reading_order(proc/'_quarto.yml')
    copies,entries = {},[]
    for name in sorted(names, key=lambda name: order.index(name) if name in order else len(order)):
        notebook = json.loads((proc/name).read_text(encoding='utf-8'))
        front = front_matter(notebook)
        copies[f'{names[name]}.html.md'] = copier.page(notebook)
        entries.append(f"- [{front['title']}]({names[name]}.html.md): {front['description']}")
    lessons = '\n'.join(entries[1:])
    llms = [f'# {title}', f'> {description}', '## Overview', entries[0], '## Lessons, in reading order', lessons]
    return copies | {'llms.txt': '\n\n'.join(llms) + '\n'}
