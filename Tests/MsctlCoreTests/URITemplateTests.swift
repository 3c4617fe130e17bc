import MsctlCore
import Testing

@Suite("A URI template")
struct URITemplateTests {
  /// The variables of RFC 6570, section 3.2, and some of other JSON types.
  private static let fields = #"""
    {"count":["one","two","three"],"dom":["example","com"],"dub":"me/too","hello":"Hello World!","half":"50%","var":"value",
    "who":"fred","base":"http://example.com/home/","path":"/foo/bar","list":["red","green","blue"],
    "keys":{"semi":";","dot":".","comma":","},"v":"6","x":"1024","y":"768","empty":"","empty_keys":{},"empty_list":[],
    "undef":null,"nulls":[null],"some":["a",null,"b"],"gaps":{"a":1,"b":null,"c":""},
    "user":{"id":7},"number":6,"long":37.76,"flag":true,"Straße":"Grüner Weg","last.name":"Doe","greek":"αβγδε","clef":"𝄞stave",
    "encoded":"admin%2F","bad":"%foo","reserved":["red%25","%2Fgreen","blue "],"a&b":{"c&d":"e&f"},"42":["leet","as"],
    "blanks":["",""],"deep":[["x"]],"deeper":{"a":{"b":1}}}
    """#

  /// The examples of RFC 6570, section 3.2, in its order, but for those whose path has a variable that is not there or empty.
  private static let examples = [
    ("{count}", "one,two,three"), ("{count*}", "one,two,three"), ("{/count}", "/one,two,three"),
    ("{/count*}", "/one/two/three"), ("{;count}", ";count=one,two,three"),
    ("{;count*}", ";count=one;count=two;count=three"),
    ("{?count}", "?count=one,two,three"), ("{?count*}", "?count=one&count=two&count=three"),
    ("{&count*}", "&count=one&count=two&count=three"),
    // Section 3.2.2
    ("{var}", "value"), ("{hello}", "Hello%20World%21"), ("{half}", "50%25"), ("O{empty}X", "OX"),
    ("{x,y}", "1024,768"),
    ("{x,hello,y}", "1024,Hello%20World%21,768"), ("?{x,empty}", "?1024,"), ("{var:3}", "val"), ("{var:30}", "value"),
    ("{list}", "red,green,blue"), ("{list*}", "red,green,blue"), ("{keys}", "semi,%3B,dot,.,comma,%2C"),
    ("{keys*}", "semi=%3B,dot=.,comma=%2C"),
    // Section 3.2.3
    ("{+var}", "value"), ("{+hello}", "Hello%20World!"), ("{+half}", "50%25"),
    ("{base}index", "http%3A%2F%2Fexample.com%2Fhome%2Findex"), ("{+base}index", "http://example.com/home/index"),
    ("O{+empty}X", "OX"), ("{+path}/here", "/foo/bar/here"), ("here?ref={+path}", "here?ref=/foo/bar"),
    ("up{+path}{var}/here", "up/foo/barvalue/here"), ("{+x,hello,y}", "1024,Hello%20World!,768"),
    ("{+path,x}/here", "/foo/bar,1024/here"), ("{+path:6}/here", "/foo/b/here"), ("{+list}", "red,green,blue"),
    ("{+list*}", "red,green,blue"), ("{+keys}", "semi,;,dot,.,comma,,"), ("{+keys*}", "semi=;,dot=.,comma=,"),
    // Section 3.2.4
    ("{#var}", "#value"), ("{#hello}", "#Hello%20World!"), ("{#half}", "#50%25"), ("foo{#empty}", "foo#"),
    ("{#x,hello,y}", "#1024,Hello%20World!,768"), ("{#path,x}/here", "#/foo/bar,1024/here"),
    ("{#path:6}/here", "#/foo/b/here"), ("{#list}", "#red,green,blue"), ("{#list*}", "#red,green,blue"),
    ("{#keys}", "#semi,;,dot,.,comma,,"), ("{#keys*}", "#semi=;,dot=.,comma=,"),
    // Section 3.2.5
    ("{.who}", ".fred"), ("{.who,who}", ".fred.fred"), ("{.half,who}", ".50%25.fred"),
    ("www{.dom*}", "www.example.com"),
    ("X{.var}", "X.value"), ("X{.empty}", "X."), ("X{.var:3}", "X.val"), ("X{.list}", "X.red,green,blue"),
    ("X{.list*}", "X.red.green.blue"), ("X{.keys}", "X.semi,%3B,dot,.,comma,%2C"),
    ("X{.keys*}", "X.semi=%3B.dot=..comma=%2C"),
    // Section 3.2.6
    ("{/who}", "/fred"), ("{/who,who}", "/fred/fred"), ("{/half,who}", "/50%25/fred"), ("{/who,dub}", "/fred/me%2Ftoo"),
    ("{/var}", "/value"), ("{/var,x}/here", "/value/1024/here"), ("{/var:1,var}", "/v/value"),
    ("{/list}", "/red,green,blue"),
    ("{/list*}", "/red/green/blue"), ("{/list*,path:4}", "/red/green/blue/%2Ffoo"),
    ("{/keys}", "/semi,%3B,dot,.,comma,%2C"), ("{/keys*}", "/semi=%3B/dot=./comma=%2C"),
    // Section 3.2.7
    ("{;who}", ";who=fred"), ("{;half}", ";half=50%25"), ("{;empty}", ";empty"),
    ("{;v,empty,who}", ";v=6;empty;who=fred"),
    ("{;x,y}", ";x=1024;y=768"), ("{;x,y,empty}", ";x=1024;y=768;empty"), ("{;hello:5}", ";hello=Hello"),
    ("{;list}", ";list=red,green,blue"), ("{;list*}", ";list=red;list=green;list=blue"),
    ("{;keys}", ";keys=semi,%3B,dot,.,comma,%2C"), ("{;keys*}", ";semi=%3B;dot=.;comma=%2C"),
    // Section 3.2.8
    ("{?who}", "?who=fred"), ("{?half}", "?half=50%25"), ("{?x,y}", "?x=1024&y=768"),
    ("{?x,y,empty}", "?x=1024&y=768&empty="), ("{?x,y,undef}", "?x=1024&y=768"), ("{?var:3}", "?var=val"),
    ("{?list}", "?list=red,green,blue"), ("{?list*}", "?list=red&list=green&list=blue"),
    ("{?keys}", "?keys=semi,%3B,dot,.,comma,%2C"), ("{?keys*}", "?semi=%3B&dot=.&comma=%2C"),
    // Section 3.2.9
    ("{&who}", "&who=fred"), ("{&half}", "&half=50%25"), ("?fixed=yes{&x}", "?fixed=yes&x=1024"),
    ("{&x,y,empty}", "&x=1024&y=768&empty="), ("{&x,y,undef}", "&x=1024&y=768"), ("{&var:3}", "&var=val"),
    ("{&list}", "&list=red,green,blue"), ("{&list*}", "&list=red&list=green&list=blue"),
    ("{&keys}", "&keys=semi,%3B,dot,.,comma,%2C"), ("{&keys*}", "&semi=%3B&dot=.&comma=%2C"),
  ]

  /// What the public suite (https://github.com/uri-templates/uritemplate-test) and other JSON add.
  private static let more = [
    ("plain", "plain"), ("{user.id}", "7"), ("{last.name}", "Doe"), ("{flag}", "true"),
    ("/set{?number}", "/set?number=6"),
    ("/loc{?long,flag}", "/loc?long=37.76&flag=true"), ("{number:1}", "6"),
    ("/lookup{?Stra%C3%9Fe}", "/lookup?Stra%C3%9Fe=Gr%C3%BCner%20Weg"),
    ("/lookup{?Straße}", "/lookup?Stra%C3%9Fe=Gr%C3%BCner%20Weg"),
    ("{greek:1}", "%CE%B1"), ("{+greek:2}", "%CE%B1%CE%B2"), ("{greek:30}", "%CE%B1%CE%B2%CE%B3%CE%B4%CE%B5"),
    ("{clef:1}", "%F0%9D%84%9E"), ("{var:9999}", "value"),
    ("{+encoded}", "admin%2F"), ("{encoded}", "admin%252F"), ("{+bad}", "%25foo"), ("{bad}", "%25foo"),
    ("{+reserved}", "red%25,%2Fgreen,blue%20"), ("{reserved}", "red%2525,%252Fgreen,blue%20"),
    ("{?42*}", "?42=leet&42=as"),
    ("{?x,keys*}", "?x=1024&semi=%3B&dot=.&comma=%2C"), ("{?x}{&keys*}", "?x=1024&semi=%3B&dot=.&comma=%2C"),
    // What is missing, null or empty is left out of a query, and the first that is there begins it.
    ("a{?undef}", "a"), ("a{?missing,y}", "a?y=768"), ("a{?empty_list,empty_list*,empty_keys*,nulls,y}", "a?y=768"),
    ("a{&undef,missing*,x}", "a&x=1024"), ("a{?some*}", "a?some=a&some=b"), ("a{/some*}", "a/a/b"),
    ("a{?gaps*}", "a?a=1&c="), ("a{;gaps*}", "a;a=1;c"), ("a{?blanks}", "a?blanks=,"),
    ("a{;blanks*}", "a;blanks;blanks"),
  ]

  @Test("is expanded as RFC 6570 says", arguments: examples + more)
  func expanded(_ template: String, _ expansion: String) throws {
    let value = try JSONValue(parsing: Self.fields.utf8)
    #expect(try URITemplate(template).expanded(with: value) == expansion)
  }

  @Test("is filled by no name of a member that would be a field of its own")
  func names() throws {
    let value = try JSONValue(parsing: ##"{"f":{"a&b=c":"d&e","?":"#","..":"/"}}"##.utf8)
    #expect(try URITemplate("s{?f*}").expanded(with: value) == "s?a%26b%3Dc=d%26e&%3F=%23&..=%2F")
    #expect(throws: TemplateError.self) {
      try URITemplate("s{/f*}").expanded(with: JSONValue(parsing: #"{"f":["a",".."]}"#.utf8))
    }
    #expect(throws: TemplateError.self) {
      try URITemplate("s{/f*}").expanded(with: JSONValue(parsing: #"{"f":["a",""]}"#.utf8))
    }
  }

  /// Those of the public suite that should fail are among them.
  @Test(
    "is refused where it is none",
    arguments: [
      "{}", "{a b}", "{ a}", "{a }", "{/?id}", "{var:prefix}", "{hello:2*}", "{??hello}", "{!hello}", "{=path}",
      "{$var}",
      "{|var*}", "{*keys?}", "{?empty=default,var}", "{-prefix|/-/|var}", "{example:color?}", "{?empty|foo=none}",
      "{#hello+}", "{hello+}", "{;keys:1*}", "{-join|&|var,list}", "{~thing}", "{?x, y}", "{var:0}", "{var:01}",
      "{var:+1}", "{var:10000}", "{var:}", "{x.}", "{x..y}", "{%2x}", "{%ff}", "{x**}", "{*}", "{:3}", "{x,}", "{,x}",
    ])
  func malformed(_ template: String) {
    let error = #expect(throws: TemplateError.self) { try URITemplate(template) }
    #expect(error?.reason == "has '\(template)', which is not a placeholder (RFC 6570)")
  }

  @Test("has its braces in pairs", arguments: ["{", "a}b", "{/id*", "/id*}", "{{x}}", "{x}}"])
  func braces(_ template: String) {
    #expect(throws: TemplateError.self) { try URITemplate(template) }
  }

  @Test(
    "is refused where a value does not fill it",
    arguments: [
      ("{missing}", "has no field 'missing'"), ("{undef}", "has no field 'undef'"),
      ("a{/empty_list*}", "has no field 'empty_list'"),
      ("a{/x,empty_keys}", "has no field 'empty_keys'"), ("a{.undef}", "has no field 'undef'"),
      ("a{;x,nulls}", "has no field 'nulls'"), ("a{#undef}", "has no field 'undef'"),
      ("a{+undef}", "has no field 'undef'"),
      ("?q={undef}", "has no field 'undef'"),
      ("{keys:1}", "has a field 'keys' that is not text, which a prefix requires"),
      ("{+keys:1}", "has a field 'keys' that is not text, which a prefix requires"),
      ("{?list:1}", "has a field 'list' that is not text, which a prefix requires"),
      ("{?deep*}", "has a field 'deep' with nested arrays or objects"),
      ("{deeper}", "has a field 'deeper' with nested arrays or objects"),
    ])
  func unfilled(_ template: String, _ reason: String) throws {
    let value = try JSONValue(parsing: Self.fields.utf8)
    let error = #expect(throws: TemplateError.self) { try URITemplate(template).expanded(with: value) }
    #expect(error?.reason == reason)
  }
}
