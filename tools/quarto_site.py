"""What Quarto does its own way, so that its pages come out as smalldocs' do: nothing from other hosts, one social card,
formulas that can scroll, code whose lines are only lines."""
import re

def no_strangers(text):
    "Without jQuery and require.js, which Quarto fetches from another host for any HTML output. Ours need neither."
    text = re.sub(r'<script [^>]*src="https://[^"]*(?:jquery|require)[^"]*"[^>]*></script>\s*', '', text)
    return re.sub(r"<script[^>]*>define\('jquery'.*?</script>\s*", '', text)

def social_card(text, home):
    "The card of the site on each page; Quarto takes a page's first figure."
    image = re.compile(r'(<meta (?:property="og|name="twitter):image" content=")[^"]*(">)')
    text = re.sub(r'<meta (?:property="og|name="twitter):image(?::|-)(?:width|height|alt)"[^>]*>\s*', '', text)
    return image.sub(rf'\g<1>{home}card.png\g<2>', text)

def display_math(text):
    "A formula in a line of its own in a span, which nbs/styles.css lets scroll."
    return re.sub(r'(?:<span class="math display">)?(<math display="block".*?</math>)(?:</span>)?',
                  r'<span class="math display">\1</span>', text, flags=re.S)

LINE = re.compile(r'^<span id="cb[^"]+"><a [^>]*></a>(.*)</span>$', re.M)

def plain_lines(text):
    "Code without the anchor of each line: `hanging_lines` makes lines of its own."
    return re.sub(r'(<pre class="sourceCode[^>]*><code[^>]*>)(.*?)(?=</code>)',
                  lambda code: code[1] + LINE.sub(r'\1', code[2]), text, flags=re.S)

def plain_tables(text):
    """Tables without stripes and small print, and as wide as their words make them: Quarto gives each column a share
    of the width, by the dashes below its heading."""
    text = text.replace(' caption-top table-sm table-striped small"', '"')
    text = re.sub(r'(<table[^>]*?) style="width:\s*100%;?"', r'\1', text)
    return re.sub(r'<colgroup>.*?</colgroup>\s*', '', text, flags=re.S)

def name_links(text):
    "The logo is a link of its own in Quarto's bar: it gets a name."
    logo = r'(<a (?![^>]*aria-label)[^>]*class="navbar-brand navbar-brand-logo")'
    return re.sub(logo, r'\1 aria-label="Overview"', text)

def as_smalldocs(text, home):
    "A page of Quarto with all of that. `home`: the address of the site."
    return name_links(plain_tables(plain_lines(display_math(social_card(no_strangers(text), home)))))
