/** Words that people, works and places are named by. Real words and names; what is invented is how they are put together. */

const words = (text: string): readonly string[] => text.trim().split(/\s+/);
const phrases = (text: string): readonly string[] =>
  text
    .trim()
    .split(/\s*[|\n]\s*/)
    .filter((phrase) => phrase !== "");

export const MEN = words(`
  Aaron Abel Adam Adrian Ahmed Akira Alan Albert Alberto Alejandro Alessandro Alexander Alexei Alfonso Alfred Ali Álvaro Amir Anders Andreas
  André Andrew Ángel Anton Antonio Antoine Arjun Armand Arne Arnold Arthur Arturo Arvid August Axel Barry Bart Bartosz Basil Ben Benedikt Benjamin
  Bernard Bernhard Bertrand Björn Bogdan Boris Brandon Brian Bruno Bryce Callum Carl Carlo Carlos Casper Cedric Cesare Charles Chen Christian Christopher
  Clarence Claude Claudio Clemens Clifford Colin Conrad Cornelius Craig Curtis Cyril Damian Daniel Danilo Darius David Dennis Derek Desmond Detlef
  Didier Diego Dieter Dimitri Dirk Dmitry Dominik Donald Douglas Duncan Dušan Dylan Earl Eberhard Eddie Edgar Edmund Eduardo Edward Egon
  Elias Elliot Emil Emilio Enrique Enzo Eric Erik Ernest Ernst Erwin Esteban Étienne Eugene Ezra Fabian Fabio Farid Felipe Felix Ferdinand Fernando
  Filip Finn Florian Floyd Francesco Francis Francisco Frank Franz Fred Frederick Friedrich Fritz Gabriel Gareth Gary Gaston Geoffrey Georg George
  Gerald Gerard Gerhard Giacomo Gilbert Giorgio Giovanni Giulio Giuseppe Glenn Gonzalo Gordon Graham Greg Grigory Guillermo Günter Gustav Guy Hamid Hans
  Harald Harold Harry Hassan Hector Heinrich Helmut Hendrik Henri Henry Herbert Herman Hideo Hiroshi Horace Horst Howard Hubert Hugh Hugo Humphrey
  Ian Ibrahim Ignacio Igor Ilya Imre Ingmar Ingo Isaac Isamu István Iván Ivar Ivo Jack Jacob Jacques Jaime Jakub James Jan Janusz Jaroslav Jarl Jason
  Javier Jean Jeffrey Jens Jeremy Jerome Jerzy Jesper Jesse Jin Joachim Joakim Joaquín Joel Johan Johannes John Jonas Jonathan Jordi Jorge José Josef
  Joseph Joshua Juan Jules Julian Julio Julius Jürgen Kamal Karel Karim Karl Kazimierz Keith Kenji Kenneth Kevin Kiran Kjell Klaus Knut Konrad Konstantin
  Kurt Ladislav Lars Laszlo Laurence Laurent Lawrence Lech Leif Leo Leon Leonard Leopold Leroy Leslie Lewis Liam Lionel Lorenzo Louis Luca Lucas Lucien
  Ludwig Luigi Luis Luke Maciej Magnus Mahmoud Manfred Manuel Marc Marcel Marcelo Marcin Marco Marcus Marek Mario Marius Mark Markus Martin Masaru Mateo
  Mathias Matteo Matthew Maurice Maurizio Max Maximilian Mehmet Melvin Michael Michel Miguel Mihai Mikael Mikhail Milan Miles Miloš Mirko Mitchell
  Mohammed Morris Morten Mustafa Nathan Neil Nicolas Niels Nigel Nikita Nikolai Nils Noah Noel Norbert Norman Octavio Oleg Olaf Oliver Omar Orlando Oscar
  Oskar Osman Oswald Otto Pablo Paolo Pascal Patrick Patrik Paul Paulo Pavel Pedro Percy Per Peter Petr Philip Philippe Pierre Pietro Piotr Rafael Raj
  Ralph Ramón Randall Raoul Rashid Raúl Ravi Raymond Reinhard Renato René Reuben Ricardo Richard Rob Robert Roberto Roderick Rodney Rodrigo Roger Roland Rolf
  Roman Romain Ronald Rory Ross Roy Rudolf Rune Rupert Russell Ryan Salvador Sam Samir Samuel Sandro Santiago Satoshi Saul Scott Sean Sebastian Serge Sergei
  Sergio Seth Shane Sidney Siegfried Sigurd Silvio Simon Stanislav Stanley Stefan Stefano Stellan Stephen Steven Stuart Sven Sverre Sylvain Tadeusz
  Takashi Tariq Ted Terence Thaddeus Theo Theodor Theodore Thierry Thomas Thor Tibor Tim Timothy Tobias Tom Tomás Tomasz Tony Torsten Trevor Tristan
  Ulrich Umberto Uwe Václav Valentin Valerio Vasily Victor Vijay Viktor Vincent Vincenzo Virgil Vittorio Vladimir Walter Warren Werner Wesley Wilfred Wilhelm
  Willem William Winston Wojciech Wolfgang Yannick Yasuo Yuri Yusuf Yves Zbigniew Zdeněk Zoltán Zygmunt`);

export const WOMEN = words(`
  Abigail Ada Adela Adele Adriana Agata Agatha Agnes Agnieszka Aiko Aisha Alba Alexandra Alice Alicia Alina Alma Amalia Amanda Amelia Amina Amy Ana
  Anastasia Andrea Angela Angelica Anita Anna Anne Annette Annika Antonia Ariane Astrid Audrey Aurora Ayşe Barbara Beata Beatrice Beatriz Bella Berit
  Bernadette Bertha Beth Bianca Birgit Blanca Bonnie Bożena Brenda Bridget Brigitte Britta Camilla Carina Carla Carmen Carol Carolina Caroline Catarina Catherine
  Cecilia Celeste Celia Charlotte Chiara Chloe Christa Christina Christine Claire Clara Clarissa Claudia Clementine Colette Concha Constance Cora Cordelia
  Corinne Cynthia Dagmar Daisy Dana Daniela Danuta Daphne Daria Deborah Delia Denise Diana Dina Dolores Dominique Donna Dora Doris Dorothea Dorothy Ebba
  Edda Edith Edna Eileen Elaine Eleanor Elena Eleonora Elisa Elisabeth Eliza Elizabeth Ella Ellen Elsa Else Elvira Emilia Emily Emma Erica Erika Erna Esmeralda
  Estelle Esther Ethel Eugenia Eva Evelyn Ewa Fanny Fatima Felicia Fiona Flora Florence Franca Frances Francesca Françoise Freya Frida Gabriela Gail
  Galina Gemma Genevieve Georgina Geraldine Gerda Gertrude Gina Giovanna Gisela Gita Giulia Gloria Grace Greta Gudrun Gwendolyn Hanna Hannah Harriet Hazel
  Hedda Hedwig Heidi Helen Helena Helga Henrietta Hilda Hildegard Hiroko Ida Ilona Ilse Imelda Ines Inga Ingeborg Ingrid Irena Irene Irina Iris Irma Isabel
  Isabella Isadora Ivana Ivy Jacqueline Jadwiga Jana Jane Janet Janina Jasmine Jean Jeanne Jelena Jennifer Jessica Jill Joan Joanna Jocelyn Johanna Josefina
  Josephine Joyce Juana Judith Julia Juliane Juliet Karen Karin Karla Katarina Kate Katharina Katherine Kathleen Keiko Kerstin Kinga Kirsten Klara Krystyna Lara
  Larissa Laura Lauren Layla Lea Leila Lena Leonie Leonor Leslie Letizia Lidia Liesl Lila Liliana Lillian Lily Linda Linnea Lisa Liv Livia Lola Lorena
  Lotte Louise Lucia Lucille Lucy Ludmila Luisa Luna Lydia Mabel Maddalena Madeleine Magda Magdalena Maja Malin Manuela Marcella Margaret Margarita Margit
  Margot Marguerite Maria Marian Marianne Marie Marina Marion Marisol Marit Marjorie Marta Martha Martina Mary Mathilde Matilda Maud Maureen Maya Mei Melanie
  Melissa Mercedes Meredith Mia Michelle Michiko Mildred Milena Mina Mira Miranda Miriam Molly Mona Monica Monika Muriel Myra Nadia Nadine Nancy Naomi Natalia
  Natalie Natasha Nell Nicole Nina Noemi Nora Norma Odette Olga Olivia Ophelia Paloma Pamela Patricia Paula Pauline Penelope Petra Philippa Phyllis Pilar
  Priya Rachel Ramona Rebecca Regina Renata Renée Rhea Rita Roberta Romy Rosa Rosalind Rose Rosemary Rosetta Ruth Sabine Sabrina Sadie Sally Samantha
  Sandra Sara Sarah Saskia Selma Shirley Sigrid Silvia Simone Sofia Solange Sonia Sophie Stella Stephanie Sunita Susan Susanna Suzanne Svetlana Sybil Sylvia
  Tamara Tania Tatiana Teresa Tessa Thelma Theresa Tilda Tove Trudy Ulla Ulrike Ursula Valentina Valerie Vanessa Vera Verena Veronica Victoria Vilma Viola
  Violet Virginia Viviane Wanda Wendy Wilhelmina Wilma Winifred Yasmin Yoko Yolanda Yvonne Zara Zelda Zoe Zofia Zuzana`);

export const SURNAMES = words(`
  Abbott Abe Adamczyk Adler Aguilar Ahlberg Aldridge Allen Almeida Alonso Álvarez Amado Ambrose Andersen Anderson Ansari Appleton Aragón Archer Arnold
  Arroyo Asher Atkins Aubert Bachmann Baker Baldwin Ballard Banerjee Baranov Barber Barnes Barron Barros Barry Bartlett Bates Bauer Baxter Beaumont
  Becker Bell Bellini Beltrán Benítez Bennett Benson Berg Berger Bergström Bernardi Bianchi Bishop Björk Blackwood Blake Blanchard Blanco Bloom Blum Bogart
  Bohm Bondarenko Bonnet Booth Borg Borowski Bosch Boucher Bouvier Bowen Boyle Brandt Braun Brennan Briggs Brooks Brown Bruun Bryant Buchanan Burke Burns Burton
  Bush Butler Byrne Cabral Calderón Caldwell Callahan Campbell Campos Cantor Cardoso Carlsen Carlson Carpenter Carr Carroll Carter Caruso Carver Castillo
  Castro Cavendish Cermak Chambers Chan Chandler Chapman Charpentier Chaudhary Cheng Chevalier Christensen Clark Clayton Clifton Cohen Colbert Cole Coleman
  Collins Colombo Connolly Conti Conway Cooper Corbett Cordero Cornell Costa Costello Coulson Cowan Craig Crane Crawford Crespo Crosby Cruz Cunningham Curtis
  Dahl Dale Dalton Daly Danielsen Das Davenport Davies Dawson Delacroix Delgado Deluca Demir Desai Devereux Diallo Díaz Dietrich Dixon Dobrev Domingo Donnelly
  Doyle Dragan Drake Dreyer Drummond Dubois Dufour Dumont Duncan Dupont Durand Dvořák Eastwood Ebert Eckhart Edwards Egan Ek Eklund Eliasson Elliott Ellis
  Emerson Engel Engström Eriksen Escobar Espinoza Estrada Evans Everett Faber Fabre Fairchild Falk Farkas Farrell Faulkner Faure Ferrara Ferrari Ferreira
  Ferrer Fielding Figueroa Fischer Fisher Fitzgerald Fleming Fletcher Flores Foley Fontaine Forbes Forsberg Foster Fournier Fowler Fox Franco Franklin Fraser
  Freeman French Frey Friedman Frost Fuchs Fuentes Fujita Gallagher Gallo Galloway García Gardner Garnier Garrido Gauthier Geiger Gentile Geller Georgiou
  Gerber Gibson Gilbert Girard Giordano Glover Godfrey Goldberg Gomes Gómez Gonçalves Goodwin Gordon Gould Graf Granger Grant Graves Gray Greco Greene Gregory
  Grieg Griffith Grimaldi Grossman Gruber Guerra Guerrero Guidi Gupta Gustafsson Guzmán Haas Hagen Hahn Hale Hall Halvorsen Hamilton Hammond Hampton Hansen
  Hansson Harding Hardy Harper Harris Hart Hartmann Harvey Hasegawa Hawkins Hayashi Hayes Healy Hedlund Heller Henderson Hendricks Henriksen Herbst Hermann
  Hernández Herrera Herzog Hess Hicks Higgins Hill Hirsch Hoffmann Hofmann Holm Holmes Holt Hopkins Horák Horn Horton Howard Huber Hudson Huerta Hughes Hunt
  Hunter Hussain Hutchinson Ibarra Ichikawa Inoue Irving Ito Ivanov Jackson Jacobs Jacobsen Jaeger Jakobsen James Jankowski Jansen Janssen Jarvis Jefferson
  Jenkins Jennings Jensen Jiménez Johansen Johansson Johnson Johnston Jones Jordan Jørgensen Joseph Joyce Juárez Kaiser Kamiński Kang Kaplan Kapoor Karlsson
  Kato Katz Kaufmann Keller Kelly Kemp Kennedy Kent Kerr Khan Kim Kimura King Kirchner Kirk Klein Knight Knudsen Kobayashi Koch Koenig Köhler Kolář Kovač
  Kovács Kowalczyk Kozłowski Kraft Krämer Kraus Kristensen Krogh Krüger Kuhn Kumar Kurosawa Lacroix Laine Lamb Lambert Lancaster Lang Larkin Larsen Larsson
  Laurent Lawson Leal Leblanc Leclerc Lee Lefèvre Lehmann Lemaire Leone Leroy Lewandowski Lewis Lim Lind Lindberg Lindgren Lindqvist Link Lombardi Long Lopes
  López Lorenz Lowe Lozano Lucas Ludwig Lund Lundgren Lynch Lyons Macdonald Machado Mackenzie Maguire Maier Maldonado Mancini Mann Manning Marchand Marchetti
  Marcus Marin Marino Mariani Marsh Marshall Martel Martin Martínez Martins Mason Mathieu Matsuda Matthews Maxwell Mayer Mazur McAllister McBride McCarthy
  McCormick McDermott McGregor McKenna McLean McNeil Medina Mehta Meier Melnik Mendes Mendoza Mercer Mercier Merrill Messina Metzger Meyer Michaud Mills Milton
  Mitchell Miyamoto Molina Moller Monroe Montero Montoya Moody Moore Morales Moran Moreau Moreno Morel Moretti Morgan Mori Moritz Morris Morrison Morrow Moser
  Moss Mukherjee Müller Muñoz Murphy Murray Nagel Nair Nakamura Navarro Nelson Neumann Newman Newton Nguyen Nicholson Nielsen Nilsson Nixon Noble Nolan Norman
  Norton Novák Nowak Núñez Nyberg Oakley O'Brien Ochoa O'Connor O'Donnell Ogawa O'Hara Oliveira Olsen Olsson O'Neill Ono Orlov Ortega Ortiz Osborne Ott Owen Owens
  Pacheco Page Palmer Pappas Paredes Park Parker Parsons Pascal Patel Paterson Patterson Paulsen Pavlov Payne Pearce Pedersen Pellegrini Peña Perez
  Perkins Perrin Perry Persson Peters Petersen Peterson Petit Petrov Pettersson Pfeiffer Phillips Pichler Pierce Pinto Pires Pohl Poirier Pollard Pope Popescu
  Porter Potter Powell Pratt Preston Price Prieto Quinn Ramírez Ramos Ramsey Randall Rao Rasmussen Rawlings Reed Reeves Reid Reilly Reinhardt Renard
  Reyes Reynolds Rhodes Ribeiro Ricci Richards Richter Riley Rinaldi Rios Ritter Rivera Robbins Roberts Robertson Robinson Rocha Rodrigues Rodríguez Rogers Rojas
  Romano Romero Rosales Rosen Rosenberg Ross Rossi Roth Rousseau Rousse Rowland Roy Rubio Ruiz Russell Russo Ryan Saito Salas Salazar Salinas Samuels Sanchez
  Sanders Sandoval Santana Santoro Santos Sato Saunders Savage Sawyer Schäfer Schmidt Schneider Scholz Schröder Schubert Schulz Schumacher Schuster Schwartz Scott
  Seidel Serrano Shah Shapiro Sharma Sharp Shaw Sheridan Sherman Shimizu Silva Simmons Simon Simpson Sinclair Singh Skinner Slater Sloan Smith Snyder Soares
  Sokolov Solberg Sommer Sorensen Soto Sousa Spencer Springer Stanton Stark Steele Stefanov Stein Steiner Stephens Sterling Stevens Stewart Stokes Stone Strand
  Strauss Strickland Strom Suárez Sullivan Sundberg Sutherland Sutton Suzuki Svensson Swanson Sweeney Szabo Takahashi Tanaka Tate Taylor Teixeira Temple Thomas
  Thompson Thomsen Thornton Tierney Tobin Todd Tomlinson Toth Townsend Travers Trevino Trujillo Tucker Turner Tyler Underwood Urban Valdez Valencia Valente
  Valenti Vance Varga Vargas Vasiliev Vaughan Vega Velasco Verdi Vidal Vieira Villa Vincent Vogel Vogt Volkov Wagner Walker Wallace Walsh Walter Walton Wang
  Ward Warner Watanabe Waters Watkins Watson Watts Weaver Webb Weber Webster Weiss Wells Werner West Westerberg Wheeler White Whitfield Whitman Wieland
  Wilcox Wilkins Williams Wilson Winkler Winter Wolf Wolff Wong Wood Woodward Wright Wu Wyatt Yamada Yamamoto Yates Yilmaz York Yoshida Young Zamora Zapata Zeller
  Zieliński Ziegler Zimmermann Zorn`);

/** Nationality, and the country it belongs to. */
export const COUNTRIES: readonly { readonly adjective: string; readonly name: string }[] = phrases(`
  American,the United States | British,the United Kingdom | French,France | German,Germany | Italian,Italy | Spanish,Spain | Swedish,Sweden | Norwegian,Norway
  Danish,Denmark | Finnish,Finland | Dutch,the Netherlands | Belgian,Belgium | Austrian,Austria | Swiss,Switzerland | Hungarian,Hungary | Czech,the Czech Republic
  Polish,Poland | Russian,Russia | Ukrainian,Ukraine | Romanian,Romania | Bulgarian,Bulgaria | Greek,Greece | Turkish,Turkey | Portuguese,Portugal
  Irish,Ireland | Canadian,Canada | Australian,Australia | Mexican,Mexico | Brazilian,Brazil | Argentine,Argentina | Chilean,Chile | Colombian,Colombia
  Indian,India | Japanese,Japan | Chinese,China | Korean,South Korea | Egyptian,Egypt | Moroccan,Morocco | Israeli,Israel | Iranian,Iran
  Icelandic,Iceland | Croatian,Croatia | Serbian,Serbia | Peruvian,Peru | Cuban,Cuba | Estonian,Estonia | Welsh,Wales | Scottish,Scotland`).map(
  (pair) => {
    const [adjective, name] = pair.split(",") as [string, string];
    return { adjective, name };
  },
);

/** Real cities: where people are born, live, study and die. */
export const CITIES = phrases(`
  Aberdeen | Adelaide | Alexandria | Algiers | Amsterdam | Ankara | Antwerp | Athens | Atlanta | Auckland | Baltimore | Barcelona | Basel | Belfast | Belgrade
  Bergen | Berlin | Bern | Bilbao | Birmingham | Bologna | Bombay | Bordeaux | Boston | Bratislava | Bremen | Brisbane | Bristol | Brno | Brussels | Bucharest | Budapest
  Buenos Aires | Buffalo | Cairo | Calcutta | Cambridge | Cape Town | Caracas | Cardiff | Casablanca | Chennai | Chicago | Cincinnati | Cleveland | Cologne
  Copenhagen | Córdoba | Cork | Dallas | Debrecen | Denver | Detroit | Dresden | Dublin | Dundee | Düsseldorf | Edinburgh | Florence | Frankfurt | Gdańsk | Geneva
  Genoa | Ghent | Glasgow | Gothenburg | Granada | Graz | Grenoble | Guadalajara | Haifa | Halifax | Hamburg | Hanover | Havana | Heidelberg | Helsinki | Hong Kong
  Houston | Innsbruck | Istanbul | Jerusalem | Kansas City | Karachi | Kharkiv | Kiev | Kobe | Kraków | Kyoto | La Paz | Lahore | Lausanne | Leeds | Leicester | Leipzig
  Liège | Lille | Lima | Linz | Lisbon | Liverpool | Ljubljana | London | Los Angeles | Lublin | Lyon | Madrid | Málaga | Malmö | Manchester | Manila | Mannheim
  Marseille | Melbourne | Memphis | Mexico City | Miami | Milan | Milwaukee | Minneapolis | Minsk | Modena | Montevideo | Montreal | Moscow | Munich | Nagoya | Naples
  Nashville | New Orleans | New York | Newcastle | Nice | Nottingham | Nuremberg | Odessa | Oporto | Osaka | Oslo | Ottawa | Oxford | Padua | Palermo | Paris | Parma
  Perth | Philadelphia | Phoenix | Pisa | Pittsburgh | Portland | Poznań | Prague | Quebec City | Quito | Reykjavík | Riga | Rome | Rostock | Rotterdam | Saint Louis
  Saint Petersburg | Salamanca | Salzburg | San Diego | San Francisco | Santiago | São Paulo | Sarajevo | Seattle | Seoul | Seville | Shanghai | Sheffield | Sofia
  Southampton | Split | Stockholm | Strasbourg | Stuttgart | Sydney | Szeged | Tallinn | Tampere | Tbilisi | Tehran | Thessaloniki | Tokyo | Toronto | Toulouse
  Trieste | Trondheim | Tunis | Turin | Turku | Uppsala | Utrecht | Valencia | Vancouver | Venice | Verona | Vienna | Vilnius | Winnipeg | Yokohama | York | Zagreb | Zürich`);

/** Parts of the names of towns that have passages of their own. */
export const TOWN_STARTS = words(`
  Alder Amber Ash Bar Beech Birch Black Bram Bright Brook Burn Cald Carl Cedar Chester Clay Clear Clif Copper Crow Dal Deer Dun East Edge Elder Elm Ever Fair Fern
  Field Fox Glen Gold Gran Graven Green Grim Hal Hart Haver Hawk Hazel Heather High Holm Iron Kel Kings Lang Lark Lin Long Maple Mar Mel Mid Mill Moss New Nor
  North Oak Old Otter Pen Pine Queens Ravens Red River Rock Rose Rush Sand Shel Silver South Spring Stan Stone Strat Summer Swan Thorn Thorpe Wal War Wave West
  Whit Wick Wild Wil Win Winter Wolf Wood Wyn Yarrow`);
export const TOWN_ENDS = words(
  "borough bourne bridge brook burgh bury by castle cliff combe cote dale den field ford gate grove ham haven hill holm hurst land leigh ley mere minster moor mouth pool port ridge shaw shire side stead stoke stow ton vale view ville wall water wick wood worth",
);
export const RIVERS = words(
  "Adda Aire Amstel Arda Arno Avon Bann Brda Calder Clyde Dart Dee Derwent Don Drava Eden Elbe Exe Glomma Inn Isar Kama Kemi Kolva Lagan Lahn Lea Leine Loire Mersey Morava Mures Naab Neman Nith Oder Oka Olt Orne Ouse Piave Prut Saale Sava Seine Severn Shannon Spree Tagus Tamar Tay Tees Test Tisza Trent Tweed Tyne Ure Vah Wear Weser Wye Yare",
);

export const TITLE_ADJECTIVES = words(`
  Absent Ancient Bitter Black Blind Blue Boundless Brave Bright Broken Burning Cold Crimson Crooked Crystal Dancing Dark Deep Distant Divided Double Drifting Early
  Eastern Electric Emerald Empty Endless Eternal Faded Faithful Fallen False Final First Forgotten Foreign Fragile Frozen Gentle Gilded Glass Golden Good Grand Gray
  Great Green Hidden Hollow Holy Honest Hungry Idle Imperial Innocent Invisible Iron Jealous Last Late Lonely Long Lost Lucky Mad Merry Midnight Narrow Nameless New
  Northern Old Open Paper Perfect Pale Patient Private Proud Quiet Red Restless Royal Sacred Savage Scarlet Secret Second Shattered Short Silent Silver Simple Sleeping
  Small Smiling Southern Stolen Strange Sudden Sunken Sweet Tender Third Twisted Uncertain Unknown Velvet Violent Wandering Warm Western White Wicked Wild Winding Wooden Young`);
export const TITLE_NOUNS = words(`
  Affair Alibi Alley Angel Anthem Apartment Apple Army Arrow Autumn Avenue Balcony Ballad Bargain Beach Beacon Bell Bird Blossom Boat Border Bride Bridge Brother Butterfly
  Cage Candle Canyon Captain Caravan Carnival Castle Cathedral Century Chain Chapel Child Choir Circle Circus City Clock Cloud Coast Colony Comedy Compass
  Concert Confession Corner Country Courier Court Crown Dance Dancer Daughter Dawn Day Debt Desert Diary Dinner Doctor Dog Door Dream Driver Drum Duel Dust Eagle
  Echo Eclipse Edge Embrace Empire Enemy Engine Escape Evening Exile Eye Face Falcon Family Farewell Farm Father Feast Fever Field Fire Flag Flame Flight Flower
  Forest Fortress Fortune Fountain Fox Friend Frontier Game Garden Gate Ghost Giant Gift Girl Glove Guest Guitar Gun Harbor Harvest Heart Heir Hero Highway Hill
  Holiday Home Horizon Horse Hotel Hour House Hunter Husband Inheritance Innkeeper Island Ivory Jewel Journey Judge Jungle Key King Kingdom Kiss Knight Ladder Lady Lake
  Lantern Laughter Law Leopard Letter Library Lie Light Lighthouse Lily Line Lion Lover Machine Madness Man Map Marble March Marriage Mask Meadow Memory Mercy
  Messenger Mile Mill Mirror Mistress Moment Monkey Moon Morning Mother Mountain Mouth Museum Music Mystery Needle Neighbor Nest Night Nightingale Oath
  Ocean Office Opera Orchard Orchestra Orphan Painter Palace Parade Paradise Passage Passenger Path Peace Pearl Photograph Piano Pilgrim Pilot Pirate Planet Poem Poet Poison
  Portrait Postman Prayer Price Prince Princess Prisoner Promise Puzzle Queen Question Rain Rainbow Raven Rebel Reckoning Refuge Return Revenge Ribbon Rider Ring River
  Road Robbery Romance Roof Room Rose Route Ruin Sailor Saint Salt Scandal Scar School Scorpion Sea Season Secret Sentence Servant Shadow Ship Shore Siege
  Silence Singer Sister Sky Snow Soldier Son Song Sorrow Soul Spider Spring Spy Stage Star Station Stone Storm Story Stranger Street Student Summer Sun Sunrise Sunset
  Swan Sword Symphony Table Tailor Tale Tango Teacher Temple Theater Thief Thread Throne Thunder Tide Tiger Time Tomorrow Tower Town Toy Trail Train Traitor Treasure
  Tree Trial Triangle Truth Tunnel Umbrella Uncle Valley Vanity Veil Verdict Victory View Village Violin Visitor Voice Volcano Voyage Wager Waltz War Watchman
  Water Wave Wedding Whale Wheel Widow Wife Wind Window Wine Winter Wish Witness Wolf Woman Word World Year Yesterday`);

export const FILM_GENRES = phrases(`
  drama | comedy | romantic comedy | thriller | western | horror | crime | war | adventure | silent drama | musical | science fiction | mystery | biographical
  historical | comedy-drama | crime drama | action | fantasy | documentary | melodrama | spy | sports | coming-of-age | family`);
export const BOOK_GENRES = phrases(
  "novel | historical novel | crime novel | science fiction novel | detective novel | children's novel | fantasy novel | romance novel | gothic novel | satirical novel",
);
export const MUSIC_GENRES = phrases(
  "rock | indie rock | folk | heavy metal | punk rock | pop | jazz | electronic | progressive rock | alternative rock | hip hop | soul | country | new wave",
);
export const PUBLISHERS = phrases(
  "Harbour Press | Northgate Books | Lindqvist & Sons | Meridian House | Alder Press | Blue Anchor | Castle Street Press | Old Mill Books | Thornfield | Riverside Press",
);
export const LABELS = phrases(
  "Bluebell Records | Polar Star Records | Lantern Music | Red Barn Records | Westway Records | Paper Moon Records | Harborline | Copper Records | Nightjar Records",
);
export const STUDIOS = phrases(
  "Aurora Pictures | Eastgate Studios | Crown Film | Nordlight | Atlas Pictures | Silver Gate Films | Union Film | Harlequin Pictures | Pegasus Film | Monarch Pictures",
);

/** What a person does; a woman's word where it differs, and what kind of work they may be named in. */
export const OCCUPATIONS: readonly { readonly man: string; readonly woman: string }[] = phrases(`
  actor,actress | painter | sculptor | architect | lawyer | politician | composer | pianist | journalist | photographer | engineer | physician | playwright | poet
  screenwriter | film producer | singer | cinematographer | chemist | physicist | historian | diplomat | general | businessman,businesswoman | footballer | chess player
  professor | judge | teacher | violinist | dancer | conductor | mathematician | surgeon | botanist | novelist | critic | publisher | opera singer | cellist`).map(
  (pair) => {
    const [man, woman = man] = pair.split(",") as [string, string?];
    return { man, woman };
  },
);

export const MONTHS = words("January February March April May June July August September October November December");
