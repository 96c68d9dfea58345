"""Find internal links, anchors and images that lead nowhere: `python tools/site_links.py _docs`"""
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

class Refs(HTMLParser):
    "What a page refers to, and the anchors that it has."
    def __init__(self, text):
        super().__init__()
        self.refs,self.ids = set(),set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs[k] for k in ('id', 'name') if attrs.get(k) and (k=='id' or tag=='a')}
        self.refs |= {attrs[k] for k in ('href', 'src') if attrs.get(k)}
    handle_startendtag = handle_starttag

def broken_links(
    folder, # where the built site lies
): # a list of lines `page: reference (reason)`; empty when all is well
    "Internal links, anchors and images that lead nowhere."
    folder = Path(folder).resolve()
    pages = {p.resolve(): Refs(p.read_text(encoding='utf-8')) for p in folder.rglob('*.html')}
    broken = []
    for path,page in pages.items():
        for ref in page.refs:
            url = urlsplit(ref)
            if url.scheme or url.netloc: continue
            target = (path.parent/unquote(url.path)).resolve() if url.path else path
            if target.is_dir(): target = target/'index.html'
            anchor = unquote(url.fragment)
            if not target.is_relative_to(folder): broken.append(f'{path.name}: {ref} (outside the site)')
            elif not target.exists(): broken.append(f'{path.name}: {ref} (no such file)')
            elif anchor and target in pages and anchor not in pages[target].ids:
                broken.append(f'{path.name}: {ref} (no such anchor)')
    return sorted(broken)

if __name__ == '__main__':
    broken = broken_links(sys.argv[1])
    print(*broken, f'{len(broken)} broken links', sep='\n')
    sys.exit(bool(broken))
