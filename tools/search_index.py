"""The index of the site's search, from the finished pages: `python tools/search_index.py _docs`

nbs/search.js loads it. It's the same for both renderers: each page, section, class, method, function, question,
term of the glossary, and each row of the reference's table of tasks has an entry. What cells print isn't in it:
numbers, and texts that a model has made up."""
import html, json, re, sys
from pathlib import Path

ANSWERED = re.compile(r'<details id="(question-[^"]+)"[^>]*>\s*<summary>(.*?)</summary>(.*?)</details>', re.S)
HEADING = re.compile(r'(?:^|<h[1-6][^>]*>)(.*?)</h[1-6]>', re.S)
PRE = re.compile(r'<pre\b.*?</pre>', re.S)
PRINTED = re.compile(r'<div class="cell-output cell-output-stdout">.*?</pre>', re.S)

def plain(text):
    "Text without tags; those inside of a line leave no space behind."
    text = re.sub(r'<(script|style|button|nav|annotation)\b.*?</\1>', '', text, flags=re.S)
    text = re.sub(r'</?(span|a|code|em|strong|b|i|wbr)\b[^>]*>', '', text)
    return ' '.join(html.unescape(re.sub(r'<[^>]+>', ' ', text)).split())

def entry(href, page, name, body, kind, also=()):
    "What search.js reads: code is apart from prose, which says more about what an entry is about."
    text = re.sub(r'<p><a [^>]*>source</a></p>|<summary[^>]*>(Exported source|Tests)</summary>', '', PRE.sub(' ', body))
    code = ' '.join(map(plain, PRE.findall(body)))
    return dict(href=href, page=page, name=plain(name), also=list(also), kind=kind, text=plain(text), code=code)

def kind_of(name, body):
    "What a heading is about: the definition of its name follows it, or it's a section."
    *owner,last = name.split('.')
    code = ' '.join(map(plain, PRE.findall(body)))
    if not (code.startswith(f'{name}(') or re.search(rf'\b(def|class) {re.escape(last)}\b', code)): return 'section'
    if owner: return 'method'
    return 'class' if last[0].isupper() else 'function'

def cells_of(row): return re.findall(r'<t[hd]\b[^>]*>(.*?)</t[hd]>', row, re.S)

def first_link(cell):
    "Where the first link of a cell leads; None without one."
    found = re.search(r'href="(?:\./)?([^"]+)"', cell)
    return html.unescape(found[1]) if found else None

def row_entry(head, cells, page):
    "The entry of a row that leads somewhere: a term of the glossary, a task of the reference. None for another table."
    if head==['term', 'what it is']:
        term,meaning = cells
        return entry(first_link(term), page, term, meaning, 'term')
    if head==['task', 'also called', 'use', 'where']:
        task,also,use,where = cells
        synonyms = [name.strip() for name in plain(also).split(',') if name.strip()]
        return entry(first_link(where), page, task, f'{use}: {where}', 'task', synonyms)

def table_entries(table, page):
    "The entries of a table's rows."
    head,*rows = [cells_of(row) for row in table.split('<tr')[1:]]
    found = [row_entry([plain(cell) for cell in head], cells, page) for cells in rows]
    return [row for row in found if row and row['href']]

def page_entries(
    name, # of the page's file
    text, # the page
): # its entries: the page itself, then what is on it
    "All that search knows of a page."
    main = text[text.index('<main'):text.index('</main>')]
    main = re.sub(r'<p class="lesson-facts">.*?</p>|<details class="page-contents">.*?</details>', '', main, flags=re.S)
    main = PRINTED.sub('', main)
    title = plain(re.search(r'<h1\b[^>]*>(.*?)</h1>', main, re.S)[1])
    description = re.search(r'<div class="description">(.*?)</div>', main, re.S)
    found = []
    for table in re.findall(r'<table\b.*?</table>', main, re.S):
        rows = table_entries(table, title)
        if rows: main = main.replace(table, '') # else its words would be found twice
        found += rows
    for anchor,question,answer in ANSWERED.findall(main):
        found.append(entry(f'{name}#{anchor}', title, question, answer, 'question'))
    start,*parts = re.split(r'<(?:section|h[2-6]) id="([^"]+)"[^>]*>', ANSWERED.sub('', main))
    about = f'<p>{description[1].strip()}.</p>' if description else ''
    first = entry(name, title, title, about + start.split('</header>')[-1], 'page')
    for anchor,body in zip(parts[::2], parts[1::2]):
        heading = HEADING.search(body)
        if not heading: continue
        body = body[heading.end():]
        kind = kind_of(plain(heading[1]), body)
        also = [plain(heading[1]).split('.')[-1]] if kind=='method' else []
        found.append(entry(f'{name}#{anchor}', title, heading[1], body, kind, also))
    return [first, *found]

def search_index(
    docs, # folder of the finished pages
): # number of entries
    "Write search_index.js, which any page can load, from file:// too."
    pages = sorted(Path(docs).glob('*.html'))
    entries = [found for path in pages for found in page_entries(path.name, path.read_text(encoding='utf-8'))]
    lines = ',\n'.join(json.dumps(found, ensure_ascii=False) for found in entries)
    (Path(docs)/'search.json').unlink(missing_ok=True) # smalldocs' own
    (Path(docs)/'search_index.js').write_text(f'window.searchIndex = [\n{lines}]\n', encoding='utf-8')
    return len(entries)

if __name__ == '__main__': print(search_index(sys.argv[1]), 'entries in search_index.js')
