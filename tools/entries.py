"""What the site says about each exported definition, read from the package's source: types and defaults stand there as
they are written, and nothing is guessed from a value.

`entries` rewrites what nbdev's show_doc made of a processed notebook; `reference` lists the names of the package, for
nbs/35_reference.ipynb."""
import ast, json, re, textwrap
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

@cache
def modules():
    "{name of a module: (its notebook, its syntax tree, its text)}, in the order of the notebooks"
    texts = {path.stem: path.read_text(encoding='utf-8') for path in (ROOT/'lesson9').glob('[!_]*.py')
             if path.stem!='all'} # which exports what the others do
    sources = {name: re.search(r'File to edit: .*?(\w+)\.ipynb', text) for name,text in texts.items()}
    names = sorted((name for name in texts if sources[name]), key=lambda name: sources[name][1])
    return {name: (sources[name][1], ast.parse(texts[name]), texts[name]) for name in names}

def is_function(node): return isinstance(node, ast.FunctionDef)

@cache
def definitions():
    "{name: syntax tree} of all classes and functions of the package, patched methods as `Class.method`."
    found = {}
    for node in (node for _,tree,_ in modules().values() for node in tree.body):
        if is_function(node) or isinstance(node, ast.ClassDef): found[patched(node) or node.name] = node
    return found

def patched(node):
    "`Class.method` for a function that `@patch` makes a method; None for any other."
    if is_function(node) and any(ast.unparse(mark)=='patch' for mark in node.decorator_list):
        return f'{ast.unparse(node.args.args[0].annotation)}.{node.name}'

@cache
def exports(tree):
    "What a module exports: the names in `__all__`"
    values = {target.id: node.value for node in tree.body if isinstance(node, ast.Assign)
              for target in node.targets if isinstance(target, ast.Name)}
    return ast.literal_eval(values['__all__']) if '__all__' in values else []

@cache
def events():
    "The names of the methods that a Runner calls"
    value = next(node.value for node in modules()['callbacks'][1].body
                 if isinstance(node, ast.Assign) and ast.unparse(node.targets[0])=='events')
    return value.func.value.value.split()

def public_methods(cls):
    "Methods in the order of the class, without those that begin with an underscore"
    return [node for node in cls.body if is_function(node) and not node.name.startswith('_')]

def maker(cls):
    "The `__init__` of a class, or of the first class of the package that it inherits from and that has one"
    own = [node for node in cls.body if is_function(node) and node.name=='__init__']
    bases = [definitions()[base] for base in map(ast.unparse, cls.bases) if base in definitions()]
    return own[0] if own else next(filter(None, map(maker, bases)), None)

def parameters(node):
    "`(parameters) -> type` as written, without `self`; nothing for a property"
    made = maker(node) if isinstance(node, ast.ClassDef) else node
    marks = [ast.unparse(mark) for mark in node.decorator_list]
    if 'property' in marks: return ''
    if made is None: return '()'
    shown = re.sub(r'^self\b(: ?\w+)?(, )?', '', ast.unparse(made.args))
    if 'annealer' in marks: shown = shown.removesuffix(', pos') # what a schedule is built from is all but `pos`
    return f'({shown})' + (f' -> {ast.unparse(made.returns)}' if made.returns else '')

def in_markdown(text):
    "Text whose marks, but for backticks, are shown and not understood"
    return re.sub(r'(`[^`]*`)|([*_<>|[\]])', lambda mark: mark[1] or '\\'+mark[2], text)

def first_sentence(node):
    "The first sentence of a docstring, as Markdown"
    text = ' '.join((ast.get_docstring(node) or '').split())
    return in_markdown(re.split(r'(?<=[.!?]) (?=[A-Z`])', text)[0])

def line(code, sentence): return f'- {code}' + (f': {sentence}' if sentence else '')

def call_of(node):
    "A method's call as code; a property as HTML, since nbdev would link its name to anything of that name"
    return f'`{node.name}{parameters(node)}`' if parameters(node) else f'<code>{node.name}</code>'

def members(cls):
    "Lines of a list: the events that a class listens to, and its other public methods"
    # `after_fit = after_batch` makes one method listen to two events
    targets = [target for node in cls.body if isinstance(node, ast.Assign) for target in node.targets]
    methods,aliases = public_methods(cls),[target.id for target in targets if isinstance(target, ast.Name)]
    heard = [f'`{name}`' for name in [*(node.name for node in methods), *aliases] if name in events()]
    others = [node for node in methods if node.name not in events()]
    own = [line(call_of(node), first_sentence(node)) for node in others]
    return ['- Called at ' + ', '.join(heard)]*bool(heard) + own

def commented(name, node):
    "How to make an object of a class whose source isn't on the page: its parameters with their comments"
    text = next(text for _,tree,text in modules().values() if node in tree.body)
    lines = text.splitlines()[maker(node).lineno-1:maker(node).body[0].lineno-1]
    return re.sub(r'def __init__\(self,? ?', f'class {name}(', textwrap.dedent('\n'.join(lines)), count=1)

def about(
    name,  # of the entry
    alone, # whether the next cell defines only it; None: its source isn't on the page
):
    """What stands between the heading of an entry and the source: for a class how to make an object, and its methods;
    for a function nothing if its source follows at once, which begins with the signature."""
    node = definitions().get(name)
    if isinstance(node, ast.ClassDef):
        made = commented(name, node) if alone is None else f'class {name}{parameters(node)}'
        parts = f'```python\n{made}\n```', first_sentence(node), '\n'.join(members(node))
        return '\n\n'.join(filter(None, parts))
    if node: return '' if alone else first_sentence(node)
    owner,_,method = name.rpartition('.')
    if not owner: return ''
    node = next(node for node in public_methods(definitions()[owner]) if node.name==method)
    return f'```python\n{name}{parameters(node)}\n```\n\n{first_sentence(node)}' # its source is that of its class

def source_of(cell): return ''.join(cell['source']) if cell['cell_type']=='code' else ''

def defined(cell):
    "The names that an exported cell defines, without those that begin with an underscore"
    if 'code-summary: "Exported source"' not in source_of(cell): return []
    nodes = [node for node in ast.parse(source_of(cell)).body if is_function(node) or isinstance(node, ast.ClassDef)]
    return [patched(node) or node.name for node in nodes if not node.name.startswith('_')]

def documented(cell):
    "The name that a cell is an entry of; None for any other cell"
    shown = re.search(r'^show_doc\(([\w.]+)\)', source_of(cell), re.M)
    return shown and shown[1]

def entries(notebook):
    """Rewrite the entries of a processed notebook. Those of one cell stand before it, in its order; nbdev puts the last
    one before the cell and the others behind it, backwards."""
    cells = notebook['cells']
    homes = {name: (i, rank) for i,cell in enumerate(cells) for rank,name in enumerate(defined(cell))}
    def place(numbered):
        i,cell = numbered
        home = homes.get(documented(cell))
        return (home[0], 0, home[1]) if home else (i, 1, 0)
    notebook['cells'] = [cell for _,cell in sorted(enumerate(cells), key=place)]
    for cell in notebook['cells']:
        name = documented(cell)
        alone = len(defined(cells[homes[name][0]]))==1 if name in homes else None
        for output in cell['outputs'] if name else ():
            head = re.match(r'.*?^#+ [^\n]+\n', ''.join(output['data']['text/markdown']), re.S|re.M)[0]
            output['data'] = {'text/markdown': f'{head}\n{about(name, alone)}\n'}

# ---- the reference

def constant(module, name):
    "What a name stands for that is neither a class nor a function: the comment behind it, or else its value"
    _,tree,text = modules()[module]
    node = next(node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0])==name)
    comment = re.search(r' # (.*)', text.splitlines()[node.end_lineno-1])
    value = ast.unparse(node.value)
    if value.endswith('.split()'): value = ', '.join(node.value.func.value.value.split())
    return in_markdown(comment[1] if comment else value)

def call(name, node): return f'`{name}` `{parameters(node)}`'

def listed(module, name, page):
    "A name with its signature, first sentence and methods, as lines of Markdown; nbdev links the name to its entry."
    node = definitions().get(name)
    if node is None: return [line(f'[`{name}`]({page})', constant(module, name))]
    own = members(node) if isinstance(node, ast.ClassDef) else []
    added = [line(call(full, added), first_sentence(added)) for full,added in definitions().items()
             if full.startswith(f'{name}.')] # by `@patch`, in other modules
    return [line(call(name, node), first_sentence(node)), *(f'    {member}' for member in own+added)]

def title(notebook):
    "The title of a notebook"
    cells = json.loads((ROOT/'nbs'/f'{notebook}.ipynb').read_text(encoding='utf-8'))['cells']
    return re.match(r'# (.*)', ''.join(cells[0]['source']))[1]

def reference(
    home, # address of the site
): # Markdown
    "A section for each module, with everything that it exports."
    parts = []
    for name,(notebook,tree,_) in modules().items():
        if not exports(tree): continue
        page = f"{home}/{re.sub(r'^[0-9]+[a-z]*_', '', notebook)}.html"
        lines = [text for export in exports(tree) for text in listed(name, export, page)]
        about = in_markdown(ast.get_docstring(tree) or '')
        parts.append(f'### lesson9.{name}\n\n[{title(notebook)}]({page}): {about}\n\n' + '\n'.join(lines))
    return '\n\n'.join(parts)
