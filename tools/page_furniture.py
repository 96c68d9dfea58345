"""What stands around the text of a page, the same under both renderers: a link that skips to the text, a line below the
title (minutes to read, what the page builds on, the notebook itself, Colab and Binder), the contents folded where a
screen is narrow, the footer. And the changelog as a page. All addresses come from settings.ini."""
import ast, html, re, shutil
from functools import cache
from pathlib import Path

import yaml
from measure import code_cells, notebooks, parse, says

ROOT = Path(__file__).resolve().parent.parent

# ---- how long a page takes

WORDS,LINES = 230,20 # read in a minute: words of prose, lines of code at three seconds each

def unfolded(text):
    "A page without what is folded on it."
    kept,depth = [],0
    for part in re.split(r'(<details\b|</details>)', text):
        if part=='<details': depth += 1
        elif part=='</details>': depth -= 1
        elif not depth: kept.append(part)
    return ''.join(kept)

def text_of(page): return html.unescape(re.sub(r'<[^>]+>', ' ', page))

def minutes(page):
    "Minutes to read what a page shows, without its outputs and what is folded."
    shown = unfolded(page[page.index('<main'):page.index('</main>')])
    code = re.findall(r'<pre class="sourceCode.*?</pre>', shown, re.S)
    prose = re.sub(r'<(pre|svg|math|style|script|button)\b.*?</\1>', ' ', shown, flags=re.S)
    words = len(re.findall(r"\S*[^\W\d_]\S*", text_of(prose))) # a number is no word
    lines = sum(bool(text_of(line).strip()) for block in code for line in block.splitlines())
    return max(1, round(words/WORDS + lines/LINES))

# ---- what a page builds on

@cache
def sidebar_titles(config):
    "{file name of a notebook: its title in the sidebar}, in reading order."
    contents = yaml.safe_load(config.read_text(encoding='utf-8'))['website']['sidebar']['contents']
    entries = [page for entry in contents for page in entry.get('contents', [entry])]
    return {entry['href']: entry['text'] for entry in entries if entry.get('href', '').endswith('.ipynb')}

def imports(nb, names):
    "{name: module of the package that it comes from}, of all imports in a notebook. `names`: those of each module."
    found = {}
    for node in (node for cell in code_cells(nb) for node in ast.walk(parse(cell))):
        if not (isinstance(node, ast.ImportFrom) and (node.module or '').startswith('lesson9.')): continue
        module = node.module.removeprefix('lesson9.')
        for alias in node.names:
            if alias.name=='*': found |= {name: home for name,home in names.items() if module in ('all', home)}
            else: found[alias.asname or alias.name] = names.get(alias.name, module)
    return found

def used_modules(nb, names):
    "The modules of which a notebook uses something in a cell that is neither hidden nor folded."
    shown = [cell for cell in code_cells(nb) if not says(cell, r'hide|code-fold:\s*true')]
    used = {node.id for cell in shown for node in ast.walk(parse(cell)) if isinstance(node, ast.Name)}
    return {module for name,module in imports(nb, names).items() if name in used}

def built_on(direct):
    """Leave out of `direct`, {notebook: those that it uses}, what another one of them builds on already. Notebooks
    stand in reading order, and use only earlier ones."""
    order = list(direct)
    direct = {name: {other for other in order[:i] if other in direct[name]} for i,name in enumerate(order)}
    below = {} # and what those use, and so on
    for name in order: below[name] = direct[name].union(*(below[other] for other in direct[name]))
    return {name: [other for other in order if other in uses and not any(other in below[more] for more in uses)]
            for name,uses in direct.items()}

@cache
def needs():
    "{file name of a notebook: those that it builds on}"
    from lesson9._modidx import d
    nbs = {f'{stem}.ipynb': nb for stem,nb in notebooks().items()}
    nbs = {name: nbs[name] for name in sidebar_titles(ROOT/'_quarto.yml') if name in nbs and name!='index.ipynb'}
    sources = {name: '\n'.join(cell.source for cell in code_cells(nb)) for name,nb in nbs.items()}
    exports = re.compile(r'^#\|\s*default_exp\s+(\w+)', re.M)
    homes = {exports.search(source)[1]: name for name,source in sources.items() if exports.search(source)}
    names = {full.removeprefix(f'{home}.'): home.split('.')[-1] for home,syms in d['syms'].items() for full in syms}
    return built_on({name: {homes[module] for module in used_modules(nb, names) if module in homes}
                     for name,nb in nbs.items()})

# ---- the line below the title

TITLE_BLOCK = '<header id="title-block-header".*?</header>'

def below(pattern, text, more): return re.sub(pattern, lambda found: found[0]+more, text, count=1, flags=re.S)

def places(cfg, name):
    "Where a notebook is to be had, from settings.ini: {words: address}."
    there,nbs = f'{cfg.user}/{cfg.repo}',Path(cfg.nbs_path).name
    return {'Download the notebook': f'nbs/{name}',
            'Open in Colab': f'https://colab.research.google.com/github/{there}/blob/{cfg.branch}/{nbs}/{name}',
            'Open in Binder': f'https://mybinder.org/v2/gh/{there}/{cfg.branch}?urlpath=lab/tree/{nbs}/{name}'}

def link(words, href):
    download = ' download' if href.startswith('nbs/') else ''
    return f'<a href="{href}"{download}>{words}</a>'

LOOKED_UP = {'34_glossary.ipynb', '35_reference.ipynb'} # nobody reads them from beginning to end

def facts(text, read, builds_on, links):
    "Put the line below the title. `builds_on` and `links` are {words: address}."
    parts = [f'{minutes(text)} min to read']*read
    if builds_on: parts.append('builds on ' + ', '.join(link(*pair) for pair in builds_on.items()))
    parts += [link(*pair) for pair in links.items()]
    return below(TITLE_BLOCK, text, f'<p class="lesson-facts">{" · ".join(parts)}</p>')

# ---- for each page

def skip_link(text):
    "The first stop of the Tab key leads past header and sidebar, to the text."
    text = re.sub(r'<main (?![^>]*tabindex)', '<main tabindex="-1" ', text, count=1)
    return below('<body[^>]*>', text, '<a class="skip-link" href="#quarto-document-content">Skip to the text</a>')

def folded_contents(text):
    "The links of `On this page` once more, above the text: nbs/styles.css shows them where those beside it are hidden."
    nav = re.search(r'<nav [^>]*id="TOC".*?</nav>', text, re.S)
    if not nav: return text
    toc = nav[0].split('<div class="toc-actions"')[0]
    links = re.sub(r'</?code>', '', toc[toc.index('<ul'):toc.rindex('</ul>')+5]) # as smalldocs does
    links = re.sub(r'<(ul|li|a)\b[^>]*?( href="[^"]*")?(?: [^>]*)?>', r'<\1\2>', links)
    fold = f'<details class="page-contents"><summary>On this page</summary>{links}</details>'
    return below('<p class="lesson-facts">.*?</p>' if 'class="lesson-facts"' in text else TITLE_BLOCK, text, fold)

def page_links(text, titles):
    "Previous and next page by their titles in the sidebar. `titles`: {name of a page, without suffix: title}."
    link = re.compile(r'(href="(?:\./)?(\w+)\.html"[^>]*>(?:(?!</a>).)*class="nav-page-text">)([^<]*)', re.S)
    def named(match): return match[1] + html.escape(titles.get(match[2], html.unescape(match[3])).replace("'", '’'))
    return re.sub(r'<nav[^>]*class="page-navigation".*?</nav>', lambda nav: link.sub(named, nav[0]), text, flags=re.S)

# Browsers that print a fold as it stands, unlike what nbs/styles.css asks for, print it open.
PRINTING = """<script>
addEventListener('beforeprint', () => document.querySelectorAll('main details:not([open])').forEach(fold => {
  fold.open = fold.dataset.printing = true }))
addEventListener('afterprint', () => document.querySelectorAll('[data-printing]').forEach(fold => {
  fold.open = false
  delete fold.dataset.printing }))
</script>"""

def footer(text, cfg):
    "Name and version, and where the changelog, the licence and the source are; in place of Quarto's footer."
    text = re.sub(r'<footer class="footer">.*?</footer>', '', text, flags=re.S)
    links = {'Changelog': 'changelog.html', 'Licence': f'{cfg.git_url}/blob/{cfg.branch}/LICENSE',
             'Source': cfg.git_url, 'Report an issue': f'{cfg.git_url}/issues/new'}
    parts = [f'{cfg.title} {cfg.version}', *(link(*pair) for pair in links.items())]
    return text.replace('</body>', f'<footer class="site-footer">{" · ".join(parts)}</footer>{PRINTING}</body>', 1)

# ---- the changelog

def changelog(text, cfg):
    "CHANGELOG.md as the text of a page: each version has an anchor such as v0.1.0, links to files lead somewhere."
    text = re.sub(r'^# .*\n+', '', text)
    text = re.sub(r'^(## (\d[\w.]*).*)$', r'\1 {#v\2}', text, flags=re.M)
    text = re.sub(rf'\]\({Path(cfg.nbs_path).name}/(\w+\.ipynb)', r'](\1', text)
    return re.sub(r'\]\((?!\w+:|#|\w+\.ipynb)', f']({cfg.git_url}/blob/{cfg.branch}/', text)

def changelog_page(
    notebook, # nbs/changelog.ipynb as processed, which is changed
    cfg,      # settings.ini
):
    "Put CHANGELOG.md into its page, with nbdev's links to symbols."
    from nbdev.doclinks import NbdevLookup
    text = NbdevLookup().linkify(changelog((ROOT/'CHANGELOG.md').read_text(encoding='utf-8'), cfg))
    text = re.sub(r'\[(`[^`]+`)\]\([^)\s]*#[^)\s]*\.[^)\s]*\)', r'\1', text) # not every method has an anchor
    notebook['cells'][-1]['source'] = text.splitlines(keepends=True)

# ---- all of it

def furnish(
    text,  # a finished page
    name,  # of its notebook in nbs/; None if it has none
    names, # {file name of a notebook: name of its page, without suffix}
    cfg,   # settings.ini
):
    "Put the furniture on a page."
    titles = {other: title for other,title in sidebar_titles(ROOT/'_quarto.yml').items() if other in names}
    if name in needs():
        builds_on = {html.escape(titles[other]): f'{names[other]}.html' for other in needs()[name]}
        text = facts(text, name not in LOOKED_UP, builds_on, places(cfg, name))
    text = text.replace('/nbs/changelog.ipynb', '/CHANGELOG.md') # `View source`
    text = page_links(text, {names[other]: title for other,title in titles.items()})
    return footer(folded_contents(skip_link(text)), cfg)

def copy_notebooks(docs, cfg):
    "The notebooks in docs/nbs/, to download."
    (docs/'nbs').mkdir(exist_ok=True)
    for name in needs(): shutil.copy(Path(cfg.nbs_path)/name, docs/'nbs'/name)
