"""The site for readers of Markdown, language models among them (llmstxt.org): `page.html.md` beside each `page.html`,
and llms.txt.

smalldocs turns a notebook into Markdown. Its own `llms-txt` would also write the files, but with pictures instead of
their descriptions, with HTML where an output has text, with links to pages instead of copies for symbols, and a list
without descriptions or order."""
import html, json, re
from itertools import chain

import yaml
from smalldocs.llms import Prose, notebook as markdown_of, page_markdown
from smalldocs.notebook import cell_options, fence_for

def front_matter(notebook):
    "What nbdev wrote at the top of a processed notebook: title, description and the name of its page."
    return yaml.safe_load(''.join(notebook['cells'][0]['source']).strip().strip('-'))

TAGS = {r'<h\d[^>]*>(.*?)</h\d>': r'\n\n**\1**\n\n', '<p>': '\n\n', '<ul>': '\n', '<li>': '\n- '}

def from_html(text):
    "Headings, paragraphs, lists and code of HTML that has no other form, such as a drawing."
    parts = re.split(r'<pre[^>]*>(.*?)</pre>', text, flags=re.S)
    for i,part in enumerate(parts):
        is_code = i%2
        if not is_code:
            for tag,mark in TAGS.items(): part = re.sub(tag, mark, part)
        part = html.unescape(re.sub(r'<[^>]+>', '', part)).strip('\n' if is_code else None)
        parts[i] = f'{fence_for(part)}python\n{part}\n{fence_for(part)}' if is_code else part
    return '\n\n'.join(filter(None, parts))

class Copier:
    "Turns processed notebooks into Markdown whose links lead from copy to copy."
    def __init__(self,
        names, # {file name of a notebook: name of its page, without suffix}
        home,  # address of the site: nbdev links symbols by it
    ): self.names,self.home = names,home

    def link(self, href):
        "A link to a notebook or to a page of the site leads to the copy instead."
        file,_,anchor = href.removeprefix(self.home).partition('#')
        if file in self.names: file = self.names[file]+'.html'
        elif not href.startswith(self.home): return href
        return f'{file}.md' + (f'#{anchor}' if anchor else '')

    def prose(self, text):
        prose = Prose(self.link, {})
        return re.sub(r'(?<=[\])])\{[^}\n]*\}', '', prose.feed(text) + prose.finish()) # without attributes of a link

    def shown(self, output, alt):
        "The output as text: a picture is its description, a table what `print` would show."
        if 'data' not in output: return output
        data = {kind: ''.join(part) if isinstance(part, list) else part for kind,part in output['data'].items()}
        if 'text/markdown' in data: text = self.prose(data['text/markdown'])
        elif any(kind.startswith('image/') for kind in data): text = f'*Picture: {alt or "without a description"}*'
        elif data.get('text/plain', '').startswith('<IPython'): text = from_html(data['text/html'])
        else: return output | dict(data={'text/plain': data.get('text/plain', '')})
        return output | dict(data={'text/markdown': text})

    def cells(self, cell):
        "Cells for a cell: links to copies, outputs as text, and the heading of a fold, such as `Answer`."
        source = ''.join(cell['source'])
        if source.startswith('<!--'): return [] # nbdev's warning not to edit the page
        if cell['cell_type']!='code': return [cell | dict(source=self.prose(source))]
        options,_ = cell_options(source)
        outputs = [self.shown(output, options.get('fig-alt')) for output in cell['outputs']]
        shown = [cell | dict(outputs=outputs)]
        if 'code-summary' in options:
            shown.insert(0, dict(cell_type='markdown', metadata={}, source=f"*{options['code-summary']}:*"))
        return shown

    def page(self, notebook):
        "The Markdown copy of a page."
        front,*cells = notebook['cells']
        about = front_matter(notebook)
        cells = [front, *chain.from_iterable(map(self.cells, cells))]
        copy = json.dumps(notebook | dict(cells=cells))
        body,_ = markdown_of(copy, {}, '', Prose(lambda href: href, {}), lambda text: text)
        return page_markdown(about['title'], f"> {about['description']}", body)

def reading_order(config):
    "{heading of a group in the sidebar: its notebooks}, in the order to read them in."
    groups = {}
    for entry in yaml.safe_load(config.read_text(encoding='utf-8'))['website']['sidebar']['contents']:
        if 'contents' in entry: groups[entry['section']] = [page['href'] for page in entry['contents']]
        else: groups.setdefault('Overview', []).append(entry['href'])
    return groups

def markdown_copies(
    proc, # folder of the processed notebooks and their _quarto.yml
    names, home, # as in Copier
    title, description, # of the site
): # {file name: text}
    "The copy of each page, and llms.txt, which lists them."
    copier = Copier(names, home)
    notebooks = {name: json.loads((proc/name).read_text(encoding='utf-8')) for name in names}
    copies = {f'{names[name]}.html.md': copier.page(notebook) for name,notebook in notebooks.items()}

    groups = reading_order(proc/'_quarto.yml')
    groups['Other'] = [name for name in names if name not in sum(groups.values(), [])]
    llms = [f'# {title}', f'> {description}']
    for group,pages in groups.items():
        fronts = [(names[name], front_matter(notebooks[name])) for name in pages if name in names]
        entries = [f"- [{front['title']}]({page}.html.md): {front['description']}" for page,front in fronts]
        if entries: llms += [f'## {group}', '\n'.join(entries)]
    return copies | {'llms.txt': '\n\n'.join(llms) + '\n'}
