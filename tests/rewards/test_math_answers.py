"""Which ways of writing an answer are the reference and which are not, kind by kind; nothing here needs a process."""

import pytest

from afterbase.rewards.extract import tidy
from afterbase.rewards.math_judge import decide

# What the model writes in the box | the reference | the question, where it matters.
RIGHT = r"""
(2,3), (1,6) | (1,6),(2,3) | Find all ordered pairs (a,b) of positive integers with ab = 6 and a < b.
12{:}10 | 12:10 | What time is 50 minutes after 11:20?
7{:}30\text{ pm} | 7:30 p.m.
x \equiv 3 \pmod{7} | x\equiv3\pmod7
3 \pmod 7 | x\equiv3\pmod7
x≡3 (mod 7) | x\equiv3\pmod7
x \equiv 10 \pmod 7 | x\equiv3\pmod7
401 \pmod{1000} | 401
|z| = 2 | 2 | Find the modulus of 1 - \sqrt{3} i.
k_{\max}=2 | 2
A\cap B=\{3,4\} | \{3,4\}
A \cup B = [1,3) | [1,3)
\text{It will be a Thursday.} | Thursday | If today is Tuesday, what day of the week will it be in 100 days?
\text{The function is odd.} | \text{odd} | Is f(x)=x^3 even, odd or neither?
\text{Yes, it is cyclic.} | Yes | Is the group Z/6 cyclic?
\text{No, it is not prime.} | No | Is 391 prime?
\text{isosceles triangle} | \text{isosceles} | A triangle has sides 5, 5 and 8. Classify it by its sides.
\text{Carla finished first.} | Carla | Who finished first if Carla finished before Ben, and Ben before Dora?
x=k\pi+\frac{\pi}{6}\ (k\in\mathbb{Z}) | x = \frac{\pi}{6}+k\pi, k\in\mathbb{Z}
a_n=2\cdot 3^{n-1}\ (n\in\mathbb{N}^*) | a_n=2\times3^{n-1}
f(x)=2\cdot x \text{ for all } x\in\mathbb{R} | f(x)=2x
f(x)=2x\ (\text{for all } x) | f(x)=2x
\text{infinite} | \infty
CD \parallel AB | AB \parallel CD
AB ∥ CD | AB \parallel CD
3 \text{ and } \frac{2}{5} | 3\frac{2}{5}
\pi | 3.1416 | Give the exact value, not a rounded one.
50\% | 50 | What is the probability?
2\begin{pmatrix}1&0\\0&2\end{pmatrix} | \begin{pmatrix}2&0\\0&4\end{pmatrix}
2 and 1/2 | 2.5
£20 | 20 \text{ pounds}
¥60 | 60 | 每本12元，5本多少元？
15时30分 | 15:30
\binom{n+1}{2} | \frac{n(n+1)}{2}
20\frac{\text{m}}{\text{s}} | 20\text{ m/s}
20\,\mathrm{m\,s^{-1}} | 20\text{ m/s}
\text{FF}_{16} | FF_{16}
\text{five hours} | 5\text{ hours}
\text{There are 5 apples left} | 5
这个数是15 | 15
每小时90千米 | 90千米/小时
3+4\mathrm{i} | 3+4i
\color{red}{4} | 4
50 km/h | 50 | A car drives 100 km in 2 hours. How fast is it?
1, 2 | x=1 or x=2
x=2, x=1 | x=1 \text{ or } x=2
\{1,2\} | x=1 or x=2
x = 1, 2 | x=1 or x=2
x_1 = 1, x_2 = 2 | x=1 or x=2
x \in \{1, 2\} | x=1 or x=2
x=1 \lor x=2 | 1, 2
1和2 | 1,2
x=1或x=2 | 1, 2
1、2 | 1,2
1 \text{ and } 2 | 1,2
x = 1 \text{ or } 2 | 1,2
1;2 | 1,2
\pm 2 | 2, -2
x = \pm 2 | -2, 2
x=\pm2 | x = 2 \text{ or } x = -2
1 \pm \sqrt{2} | 1+\sqrt2, 1-\sqrt2
\frac{1 \pm \sqrt{5}}{2} | \frac{1+\sqrt5}{2}, \frac{1-\sqrt5}{2}
-3, 3, -1 | -1,3,-3
\{1, 2, 2\} | \{1,2\}
\{2, 1\} | \{1, 2\}
{1, 2} | \{1,2\}
(1,2), (3,4) | (3,4),(1,2)
(1, 2) \text{ and } (3, 4) | (1,2), (3,4)
\{(1,2),(3,4)\} | (1,2),(3,4)
x=1, y=2 | (1,2)
y=2, x=1 | (1,2)
(x,y) = (1,2) | (1,2)
(x, y) = (1, 2) | x=1, y=2
y = 2, x = 1 | x=1, y=2
1, 2 | (1,2)
P(1,2) | (1,2)
\langle 1, 2, 3 \rangle | (1,2,3)
\begin{pmatrix}1\\2\\3\end{pmatrix} | (1,2,3)
\begin{cases} x = 1 \\ y = 2 \end{cases} | x=1,y=2
1 \le x < 2 | [1,2)
x \ge 3 | [3,\infty)
x \in [3, \infty) | x\ge 3
3 \le x | [3,\infty)
x<1 \text{ or } x>2 | (-\infty,1)\cup(2,\infty)
(2,\infty) \cup (-\infty, 1) | (-\infty,1)\cup(2,\infty)
\mathbb{R} | (-\infty,\infty)
\text{all real numbers} | \mathbb{R}
全体实数 | (-\infty,\infty)
\mathbb{R} \setminus \{0\} | (-\infty,0)\cup(0,\infty)
x \neq 0 | (-\infty,0)\cup(0,\infty)
x \ne 1, x \ne 2 | \mathbb{R}\setminus\{1,2\}
]1,2[ | (1,2)
[1,2[ | [1,2)
-1<x<1 | (-1,1)
|x|<1 | (-1,1)
|x| \ge 2 | (-\infty,-2] \cup [2,\infty)
[0,1] \cup (1,2] | [0,2]
\{x \mid x > 2\} | (2,\infty)
\{x \in \mathbb{R} : x > 2\} | x>2
2 \ge x \ge 1 | 1 \le x \le 2
x > 1 \text{ and } x < 3 | (1,3)
(-\infty, 3) | x < 3
(1, 2) \cup \{5\} | \{5\} \cup (1,2)
5 cm | 5
5 \text{ cm} | 5
5cm | 5 \text{ cm}
500 cm | 5 \text{ m}
5 \text{ m} | 500 cm
5 \text{ meters} | 5\,\mathrm{m}
60 km/h | 60 \text{ km/h}
60 \text{ kilometers per hour} | 60 km/h
60 | 60 \text{ km/h}
16 \text{ m/s}^2 | 16 \text{ m}/\text{s}^2
25 \text{ square meters} | 25 \text{ m}^2
25 m² | 25
25平方米 | 25 \text{ m}^2
12 \text{ apples} | 12
12个 | 12
12元 | 12
\$5 | 5 \text{ dollars}
5 dollars | \$5
5美元 | \$5
50 cents | \$0.50
\$1,234.50 | 1234.5
€5 | 5 \text{ euros}
5 USD | \$5.00
2 hours 30 minutes | 2.5 \text{ hours}
150 \text{ minutes} | 2.5 \text{ hours}
2小时30分钟 | 150分钟
5 feet 6 inches | 66 \text{ inches}
1,234,567 | 1234567
1 234 567 | 1234567
12,34,567 | 1234567
1.234.567 | 1234567
1.234,56 | 1234.56
1'234'567 | 1234567
1{,}234{,}567 | 1234567
1\,234\,567 | 1234567
3,14 | 3.14
2 1/2 | 5/2
2\frac12 | 2.5
2\ \frac{1}{2} | 5/2
-2\frac{1}{2} | -2.5
2½ | 2.5
½ | 0.5
2又1/2 | 2.5
二又二分之一 | 5/2
答案是5 | 5
答案：5元 | 5
3万 | 30000
1.5亿 | 150000000
百分之五十 | 50\%
三分之二 | 2/3
二十一 | 21
５ | 5
（１，２） | (1,2)
负三 | -3
无解 | \text{no solution}
5千米 | 5 \text{ km}
x=3，y=4 | (3,4)
B | \text{(B)}
(B) | B
B) 12 | B
B. 12 | B
\text{(B)} 12 | B
\textbf{(B)} | B
\text{B} | B
\mathrm{B} | (B)
Option B | B
选B | B
B | B) 12
12 | B) 12
A, C | \text{A,C}
C, A | \text{A,C}
5 | x = 5
x = 5 | 5
5 = x | 5
y = 2x+1 | 2x+1
2x+1 | y = 2x+1
f(x) = 2x+1 | 2x+1
2x - y + 1 = 0 | y=2x+1
y - 1 = 2x | y = 2x+1
2y = 4x + 2 | y = 2x+1
x^2+y^2 = 4 | x^2 + y^2 - 4 = 0
2+3 = 5 | 5
x = 2 + 3 = 5 | 5
\text{Area} = 5 | 5
AB = 12 | 12
\angle ABC = 30^\circ | 30^\circ
f(2) = 7 | 7
P(A) = \frac12 | 0.5
x+y = 7 | 7 | Find $x+y$.
[[1,2],[3,4]] | \begin{pmatrix}1&2\\3&4\end{pmatrix}
\begin{bmatrix}1&2\\3&4\end{bmatrix} | \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
\left[\begin{array}{cc}1&2\\3&4\end{array}\right] | \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
A = \begin{pmatrix}1&2\\3&4\end{pmatrix} | \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
\frac{\sqrt{2}}{2} | \frac{1}{\sqrt{2}}
\sqrt{8} | 2\sqrt{2}
sqrt(2)/2 | \frac{1}{\sqrt{2}}
\sqrt[3]{-8} | -2
2^{10} | 1024
2**10 | 1024
\ln 4 | 2\ln 2
\log_{10} 100 | 2
\log 2 | \log_{10} 2
\log_2 3 | \frac{\ln 3}{\ln 2}
e^{i\pi} | -1
4i+3 | 3+4i
\cos(2x) | 2\cos^2 x - 1
(x-1)(x+1) | x^2-1
x(x+1) | x^2+x
\frac{x^2-1}{x-1} | x+1
a^2 + 2ab + b^2 | (a+b)^2
\frac{n(n+1)}{2} | \frac{n^2+n}{2}
n! | n!
\binom{5}{2} | 10
5! | 120
\frac{7!}{5!} | 42
\infty | \text{infinity}
+\infty | \infty
正无穷 | \infty
\emptyset | \text{no solution}
\varnothing | \{\}
DNE | \text{does not exist}
undefined | \text{undefined}
\text{no real solutions} | \text{No solution}
1.5\times10^3 | 1500
1.5e3 | 1500
1.5 x 10^3 | 1500
1.5 × 10³ | 1500
6.02 \cdot 10^{23} | 6.02\times 10^{23}
0.3333 | 1/3
0.6667 | \frac{2}{3}
1.4142 | \sqrt{2}
3.1416 | \pi
33.33% | 1/3
0.3333... | 1/3
0.\overline{3} | 1/3
0.1\overline{6} | 1/6
073 | 73
73 | 073
73.0 | 73
3:30 PM | 3:30 \text{ p.m.}
3:30pm | 3:30 PM
15:30 | 3:30 PM
下午3:30 | 3:30 PM
05:00 | 5:00
October 30 | \text{October 30}
30 October | October 30
Oct 30th | October 30
45 | 45^\circ
45° | 45^\circ
45 degrees | 45^\circ
45度 | 45^\circ
\frac{\pi}{4} | 45^\circ
45^\circ | 45 | What is the angle in degrees?
3 : 1 | 3:1
6:2 | 3:1
3 to 1 | 3:1
3/1 | 3:1
\frac12 | 1:2
52_{8} | 52_8
52_{\text{eight}} | 52_8
52 (base 8) | 52_8
52 | 52_8 | Express the answer in base 8.
101010_2 | 101010_{2}
\text{Evelyn} | Evelyn
evelyn | \text{Evelyn}
an ellipse | \text{ellipse}
Yes | \text{yes}
True | \text{True}
2x + C | 2x + c
x = \frac{\pi}{4} + k\pi, k \in \mathbb{Z} | \frac{\pi}{4} + n\pi
\frac{\pi}{4} + k\pi \text{ where } k \text{ is an integer} | \frac{\pi}{4} + n\pi, n\in\mathbb{Z}
five | 5
twenty-one | 21
\mbox{four} | 4
one half | 1/2
2 million | 2000000
2.5 thousand | 2500
\boxed{5} | 5
The answer is 5 | 5
Answer: 5 | 5
= 5 | 5
\therefore 5 | 5
\frac{-1}{2} | -\frac{1}{2}
-\frac{1}{2} | \frac{1}{-2}
.5 | \frac12
50\% | 0.5
50 | 50\%
50\% | 50 | What percent of the class?
50 percent | 50\%
$\frac{1}{2}$ | 1/2
\( \frac{1}{2} \) | 1/2
\displaystyle\frac{1}{2} | 1/2
\frac{1}{2}. | 1/2
2\pi r | 2 \pi r
\frac{4}{3}\pi r^3 | \frac{4\pi r^3}{3}
x^{2/3} | \sqrt[3]{x^2}
|x| | \sqrt{x^2}
\sin^{-1}(x) | \arcsin x
\tan x | \frac{\sin x}{\cos x}
12\pi \text{ cm}^2 | 12\pi
\text{5} | 5
\text{x = 5} | 5
x\geq3 | x≥3
3<=x | x >= 3
1/2, 1/3 | \frac13, \frac12
-1, 3, 3 | -1,3,3
(3, \pi/2) | \left( 3, \frac{\pi}{2} \right)
8 \frac{1}{3} \text{ hours} | \frac{25}{3}
s^2 \le 8r^2 | 8r^2 \ge s^2
z = 3 + 4i | 3+4i
\frac{3}{4} \text{ of the cake} | 3/4
7 \text{ days} | 7
14 \text{ right triangles} | 14
8.24 mph | \approx 8.24 \text{ mph}
\frac{2}{3} | \$\dfrac23 \approx \$0.67
56\% | 0.56 = 56\%
6, 8, 10 | 6, 8\text{, and }10
9.42 \text{ cm} | 9.42
1:2:3 | 2:4:6
\frac{\pi^2}{6} | \frac{\pi^{2}}{6}
2^{2008}-2 | -2+2^{2008}
5^{12} | 244140625
\lfloor 3.7 \rfloor | 3
A=9, B=4 | B=4, A=9
AB=9, CD=4 | CD = 4, AB = 9
9, 4 | AB=9, CD=4
\text{Monday} | monday
\text{neither} | Neither
2\cdot 3^5 | 486
\sqrt{3} - 5i | -5i+\sqrt3
3x+2y-z = 4 | z = 3x + 2y - 4
60^\circ, 120^\circ | 120^\circ, 60^\circ
\frac{5\sqrt{3}}{3} | \frac{5}{\sqrt{3}}
x \to \infty | x\to\infty
40,320 | 40320
$40,320$ | 40,\!320
1000 \text{ cm}^3 | 1 \text{ L}
x = 1 \quad \text{or} \quad x = 2 | 1, 2
x = 1, \quad x = 2 | 1,2
x=1 and x=2 | 1, 2
The solutions are x = 1 and x = 2 | x=1 or x=2
the answer is \frac{1}{2} | 1/2
\text{The answer is } 5 | 5
x \in \mathbb{R} | (-\infty,\infty)
(-\infty, \infty) | \text{all real numbers}
all real numbers except 0 | (-\infty,0)\cup(0,\infty)
x \in (-\infty, 0) \cup (0, \infty) | x \ne 0
(-\infty, 1] \cup [2, \infty) | x \le 1 \text{ or } x \ge 2
$x > 5$ | (5, \infty)
5 < x | x > 5
x>5 | x > 5.0
(2, 3] | 2 < x \le 3
\{x : 2 < x \le 3\} | (2,3]
\{ -2, -1, 0, 1 \} | -2,-1,0,1
(0,0), (1,1) \text{ and } (2,4) | (0,0),(1,1),(2,4)
(0, 0) or (1, 1) | (1,1), (0,0)
\text{$(0,0)$ and $(1,1)$} | (0,0),(1,1)
3 + 2i \text{ and } 3 - 2i | 3+2i, 3-2i
3 \pm 2i | 3+2i, 3-2i
1/2 cup | \frac{1}{2} \text{ cup}
2.5kg | 2.5
2500 g | 2.5 kg
1.5 hours | 90 minutes
1 h 30 min | 90 min
90 minutes | 1.5 h
36 km/h | 10 m/s
100 cm^2 | 0.01 m^2
100 \text{ sq cm} | 100 \text{ cm}^2
100 \text{ square centimeters} | 100 cm²
5 \text{ square feet} | 5
12 \text{ inches} | 1 \text{ foot}
\$1.50 | 150 \text{ cents}
1.50 dollars | \$1.5
20% | 0.2
12.5\% | \frac{1}{8}
0.125 | 12.5\%
1/8 | 12.5 \%
\frac{1}{2}\% | 0.005
150\% | 1.5
$1,000,000 | 1000000
1 million | 1,000,000
1.2 billion | 1200000000
１２３ | 123
３．５ | 3.5
5 ½ | 5.5
-1\frac{3}{4} | -\frac{7}{4}
\frac{11}{4} | 2\frac34
2 \frac{3}{4} \text{ cups} | 2.75
答案为 -3 | -3
最终答案：42 | 42
共有42个 | 42
42人 | 42
3.5米 | 3.5
3.5米 | 350厘米
8折 | 8折
60千米/时 | 60 km/h
百分之二十五 | 25%
五分之三 | 0.6
一百二十 | 120
两百 | 200
十五 | 15
三万五千 | 35000
零点五 | 0.5
x=2或x=-3 | x=2, x=-3
x₁=2，x₂=-3 | x=2, x=-3
x_1=2, x_2=3 | 2,3
{2，3} | \{2,3\}
（2，3） | (2,3)
是 | 正确
对 | True
下午3点30分 | 3:30 PM
3小时20分钟 | 200分钟
5元 | 5
5.00元 | 5元
5元5角 | 5.5元
a ≥ 3 | [3, +\infty)
[3, +∞) | x \geq 3
(−∞, 2) | x<2
π | 3.14159265
2π | 6.2832
√2 | \sqrt{2}
√12 | 2\sqrt{3}
2√3 | \sqrt{12}
3√2/2 | \frac{3}{\sqrt{2}}
sqrt(12) | 2*sqrt(3)
(1+sqrt(5))/2 | \frac{1+\sqrt{5}}{2}
x^2 + 2*x + 1 | (x+1)^2
e^(2x) | e^{2x}
exp(2x) | e^{2x}
ln(x) | \ln x
\log_e x | \ln x
\frac{1}{2}\ln 2 | \ln\sqrt{2}
\ln 6 - \ln 2 | \ln 3
\sin 30^\circ | \frac12
\cos \pi | -1
\tan^{-1}(1) | \frac{\pi}{4}
\arctan 1 | \pi/4
\sec^2 x | 1+\tan^2 x
2\sin x\cos x | \sin 2x
|x-1| | |1-x|
\frac{a}{b} | a/b
a^{-1} | \frac{1}{a}
\sqrt{x^2+1} | (x^2+1)^{1/2}
x\sqrt{x} | x^{3/2}
\frac{\sqrt{6}+\sqrt{2}}{4} | \cos 15^\circ
\frac{1}{1-x} | -\frac{1}{x-1}
2^{n+1} | 2 \cdot 2^n
3^{-2} | \frac19
10! | 3628800
{5 \choose 2} | 10
\binom{10}{3} | 120
0.\dot{3} | \frac13
0.\overline{142857} | 1/7
3.\overline{3} | \frac{10}{3}
-\infty | negative infinity
no solutions | \varnothing
No real solution | no solution
\text{None} | \text{no solution}
\text{undefined} | \text{DNE}
The limit does not exist | DNE
infinitely many | \text{infinitely many solutions}
diverges | \text{Diverges}
2.5e-3 | 0.0025
2.5 \times 10^{-3} | 0.0025
2.5*10^-3 | 0.0025
2.50\times10^{-3} | 0.0025
6.674×10^{-11} | 6.674e-11
10^6 | 1000000
007 | 7
0.50 | .5
-0 | 0
y=mx+b | y = b + mx
2x+3y=6 | y = 2 - \frac{2}{3}x
x - 2y + 3 = 0 | 2y = x+3
\frac{x^2}{4} + \frac{y^2}{9} = 1 | 9x^2+4y^2 = 36
(x-1)^2 + (y+2)^2 = 9 | x^2+y^2-2x+4y-4=0
y = x^2 - 1 | y = (x-1)(x+1)
f(x) = x^2 | x^2
f(x)=x^2 | f(x) = x \cdot x
f^{-1}(x) = \frac{x-1}{2} | \frac{x-1}{2}
g(t) = 3t | 3t
a_n = 2n - 1 | 2n-1
a_n = 2n-1 | a_n = 1 + 2(n-1)
P(X=2) = 0.3 | 0.3
A(2,3) | (2,3)
(2, 3) | A(2,3)
x=2,\ y=3,\ z=4 | (2,3,4)
(x,y,z)=(2,3,4) | (2,3,4)
\left( \frac{1}{2}, -1 \right) | (0.5, -1)
\langle 2, 3\rangle | \begin{pmatrix}2\\3\end{pmatrix}
2\mathbf{i}+3\mathbf{j} | 2\mathbf{i} + 3\mathbf{j}
[2,3,4] | (2,3,4)
1101_2 | 1101_{2}
1101_{(2)} | 1101_2
(1101)_2 | 1101_2
1101_{\text{two}} | 1101_2
FF_{16} | ff_{16}
9:05 AM | 9:05 a.m.
9 AM | 9:00 AM
12:00 PM | 12 PM
December 25 | Dec 25
December 25, 2020 | 25 December 2020
2020年12月25日 | December 25, 2020
July 4th | July 4
Tuesday | tuesday
\text{Tuesday} | 星期二
1 : 2 : 3 | 1:2:3
2:4 | 1:2
3:2 | \frac{3}{2}
1.5 | 3:2
5, -5 | \pm 5
\pm\sqrt{3} | \sqrt3, -\sqrt3
0, \pm 1 | -1, 0, 1
\pm 1, \pm 2 | -2,-1,1,2
x=0, \pm 1 | 0,1,-1
A \cup B | A\cup B
\frac{\pi}{3} + 2k\pi | \frac{\pi}{3} + 2\pi k
k\pi, k\in\mathbb{Z} | n\pi
x^3 + C | x^3 + C_1
\ln|x| + C | \ln |x| + c
-\cos x + C | C - \cos x
\frac{dy}{dx} = 2x | 2x
y' = 2x | 2x
\text{(A)} | A
Answer: C | C
C. | C
**C** | C
(c) | C
The answer is (C) | C
\text{C} | C
ABC | ABC
$\triangle ABC$ | \triangle ABC
an isosceles triangle | isosceles triangle
\text{Alice} | Alice
"Alice" | Alice
Alice. | Alice
blue | \text{Blue}
"""
WRONG = r"""
\frac{10}{3} | 3.33 | Round to the nearest hundredth.
\pi | 3.14 | Round 3.14159 to the nearest hundredth.
(6,1), (2,3) | (1,6),(2,3) | Find all ordered pairs (a,b) of positive integers with ab = 6 and a < b.
(3,4), (1,2) | (1,2),(3,4) | Where are A and B, respectively?
\frac{12}{10} | 12:10 | What time is 50 minutes after 11:20?
x \equiv 3 \pmod{8} | x\equiv3\pmod7
x \equiv 4 \pmod{7} | x\equiv3\pmod7
y \equiv 3 \pmod{7} | x\equiv3\pmod7
2401 \pmod{1000} | 401
3 | x\equiv3\pmod7
|x| = 2 | 2 | Solve for x.
A\cap B=\{3\} | \{3,4\}
\text{It will not be a Thursday.} | Thursday | If today is Tuesday, what day of the week will it be in 100 days?
\text{It will be Thursday or Friday.} | Thursday | If today is Tuesday, what day of the week will it be in 100 days?
\text{the day after Thursday} | Thursday | What is the day 100 days after Tuesday?
\text{The function is odd even.} | \text{odd} | Is f(x)=x^3 even, odd or neither?
\text{Yes, it is not cyclic.} | Yes | Is the group Z/6 cyclic?
\text{No, it is prime.} | No | Is 391 prime?
\text{Ben finished first Carla} | Carla | Who finished first if Carla finished before Ben, and Ben before Dora?
\text{Carla beat Ben} | Carla | Who finished first if Carla finished before Ben, and Ben before Dora?
\text{right isosceles triangle} | \text{isosceles} | A triangle has sides 5, 5 and 8. Classify it by its sides.
f(x)=3x \text{ for all } x\in\mathbb{R} | f(x)=2x
CD \perp AB | AB \parallel CD
AC \parallel BD | AB \parallel CD
3 \text{ and } \frac{5}{2} | 3\frac{2}{5}
0.375\% | \frac38 | What is the probability of exactly two heads?
1\% | 1 | What is the probability that the result is at most 6?
\int x\,dx | \frac{x^2}{2}
\{\emptyset\} | \emptyset
(49, 550) | 49,550
63 cm | 63 | A rectangle is 7 cm by 9 cm. What is its area?
15 kg | 15 | What is 7 + 8?
70 radians | 70 | Two angles measure 50 and 60 degrees. What is the third?
€8.75 | 8.75 | A pen costs $2.50. What do 3 pens and a $1.25 card cost?
60角 | 60 | 每本12元，5本多少元？
\text{There are at least 5 apples} | 5
\text{I have 5 of them or 6} | 5
1 | x=1 or x=2
1, 2, 3 | 1,2
1, 3 | 1, 2
1 or 3 | 1 or 2
x=1, y=2 | x=1 or x=2
5 or 6 | 5
5, 6 | 5
\pm 2 | 2
2 | \pm 2
2, -3 | \pm 2
-1, 3 | -1,3,3
(2,1) | (1,2)
(1,2) | [1,2]
[1,2) | (1,2]
x > 3 | [3,\infty)
x < 3 | (3,\infty)
x=2, y=1 | (1,2)
x=2, y=1 | x=1, y=2
5 cm | 5 m
5 \text{ cm}^2 | 5 \text{ cm}
5 kg | 5 \text{ cm}
€5 | \$5
5 ft | 5 inches
50 | \$0.50
1.234 | 1234
1.2 | 1,2
12 | 1,2
2\frac12 | 1
2 1/2 | 21/2
5\frac{1}{3} | 5/3
3万 | 3
B | C
(B) 12 | C
B or C | B
A, B | B
A, B, C, D | B
A | \text{A,C}
A, B, C | \text{A,C}
C) 12 | B) 12
B) 13 | B) 12
x = 6 | 5
x = 5 = 6 | 5
5=5 | 5
6 = 5 | 5
0 = 0 | 0
x = x | 5
y = 2x+2 | y=2x+1
y = 5 | x = 5
2x = 10 | 5
x^2 = 25 | 25
\begin{pmatrix}1&2\\3&5\end{pmatrix} | \begin{pmatrix}1&2\\3&4\end{pmatrix}
\begin{pmatrix}1&3\\2&4\end{pmatrix} | \begin{pmatrix}1&2\\3&4\end{pmatrix}
\begin{pmatrix}1&2\end{pmatrix} | \begin{pmatrix}1\\2\end{pmatrix}
\sqrt{3} | \sqrt{2}
x+1 | x+2
x^2 | x
X | x
2x | x^2
\ln 2 | \log_2 3
3-4i | 3+4i
-\infty | \infty
0 | \text{no solution}
\text{no solution} | 0
\infty | \text{no solution}
\text{undefined} | 0
\emptyset | 0
1.5\times10^4 | 1500
0.33 | 1/3
0.3 | 1/3
0.3334 | 1/3
3.14 | \pi
1.41 | \sqrt{2}
1.415 | \sqrt 2
3.33 | 3.3
42.0001 | 42
3:30 AM | 3:30 PM
2:30 PM | 3:30 PM
4:30 | 3:30 PM
October 31 | October 30
60^\circ | 45^\circ
45 | \frac{\pi}{4}
1:3 | 3:1
52_9 | 52_8
52_8 | 52
42 | 52_8
Evelyn and Angela | Evelyn
Not Evelyn | Evelyn
No | Yes
False | True
5x | 5
5^2 | 5
-5 | 5
5! | 5
at least 5 | 5
not 5 | 5
about 5 | 5
There are 5 ways if order matters, else 10 | 5
5 (or maybe 6) | 5
5? | 5
5 or more | 5
5+ | 5
5- | 5
>5 | 5
\geq 5 | 5
5 to 6 | 5
5-6 | 5
5~6 | 5
print(5) | 5
eval("5") | 5
lambda: 5 | 5
import os | 5
5; import os | 5
"5" if True else 6 | 5
range(5) | 5
5,5 | 5
\{5, 6\} | 5
[5, 6] | 5
(5) (6) | 5
5 5 | 5
5\\6 | 5
5 \\ 6 | 5
\text{the answer} | 5
50 | 50.5
50\% | 50
0.5 | 50
0.5\% | 0.5
1/2 | 2
\frac{1}{0} | 0
0/0 | 0
2x+3 | 2x+3y
x | y
2, 3, 4 | \{2,3\}
(1,2),(3,4) | (1,2),(4,3)
(1,2) | (1,2),(3,4)
(1,2,3) | (1,2)
\{1,2\} | (2,1)
[0,1]\cup[2,3] | [0,3]
[0,1) \cup (1,2] | [0,2]
x \neq 1 | \mathbb{R}
\mathbb{R} | (0,\infty)
s^2 \ge 8r^2 | s^2 \le 8r^2
s^2 < 8r^2 | s^2 \le 8r^2
x^2+y^2 = 5 | x^2+y^2=4
x^2 | x^2 + C
2 + 3i, 2 - 4i | 2+3i, 2-3i
\text{even} | odd
ABCD | \text{CBAD}
DABC | CBAD
QLSX | LQSX
5k | 5000x
1e400 | 5
1,000 | 1
1,000 | 1.000
1.000.000 | 1
\frac{2}{3}, \frac{1}{2} | \frac{2}{3}
a=2, b=1 | a=1, b=2
Kickball, Softball, Picnic | Softball, Kickball | order them
5\ldots | 5
1, 2, \ldots | 1,2
1,2,... | 1,2
5 \text{ is not the answer} | 5
I think 5 | 5
5 \text{ or } -5 | 5
\sqrt{25} = \pm 5 | 5
\text{none of these} | 5
无解 | 5
5或6 | 5
5左右 | 5
约5 | 5
大于5 | 5
不是5 | 5
8:34 | 9:34 p.m.
x=5,x=6 | 5
x \in (1, 2) | 1
(5,5) | 5
5, \text{ but also } 6 | 5
y=2x+1, y=3x | y=2x+1
5 m/s | 5 km/h
5\times | 5
5= | 5
=5= | 5
\neg 5 | 5
x = 1 | x=1 \text{ or } x=2
x=1, x=3 | 1, 2
1,1 | 1,2
1, 2, 2 | 1, 2, 3
\{1, 2\} | \{1, 2, 3\}
(1,2) or (2,1) | (1,2)
(-1, 1) | [-1,1]
(1, \infty) | [1,\infty)
[1, \infty] | (1,\infty)
x \le 1 | x < 1
x > 1 | x > 2
(-\infty, 1) | (1, \infty)
(-\infty,1)\cup(1,2) | (-\infty,2)
2500 g | 2.5 g
5 hours | 5 minutes
5 \text{ cm}^3 | 5 \text{ cm}^2
5 \text{ miles} | 5 \text{ km}
¥5 | €5
50% | 5%
0.5% | 50%
1,23 | 123
1 23 | 123
12 34 | 1234
2\frac{1}{3} | \frac{2}{3}
2 \cdot \frac{1}{2} | 2\frac{1}{2}
百分之五 | 50%
三分之二 | 3/2
三 | 四
5万 | 5千
x=2或x=3 | x=2
5或6 | 5, 7
C | D
CD | C
(C) 5 | D
y = 2x - 1 | y = 2x+1
y = x^2 | y = x^3
x^2 + y^2 = 1 | x^2 - y^2 = 1
2x+1 | 2x-1
(x+1)^2 | x^2+1
\sqrt{a+b} | \sqrt a + \sqrt b
\ln(a+b) | \ln a + \ln b
\sin 2x | 2 \sin x
\frac{a+b}{c} | a + \frac{b}{c}
-x^2 | (-x)^2
x^{2y} | x^{y^2}
\frac{1}{a+b} | \frac1a+\frac1b
e^{x} | e^{-x}
\pi | 3
22/7 | \pi
1.73 | \sqrt{3}
0.667 | 0.666
0.67 | \frac23
2.718 | 2.719
-\infty | +\infty
\infty | 0
\text{none} | \text{infinitely many}
yes | no
true | no
9:05 AM | 9:05 PM
9:05 | 9:50
July 4 | July 5
July 4 | June 4
1101_2 | 1101_3
1101 | 1101_2 | What?
13 | 1101_2
2:3 | 3:2
1:2:3 | 3:2:1
(2,3,4) | (2,4,3)
(2,3) | (2,3,0)
\langle 2,3\rangle | \langle 3,2\rangle
y=3, x=2, z=4 | (3,2,4)
3i | 3
1+i | 1-i
x^3 | x^3 + C
k\pi | 2k\pi
\frac{\pi}{4} | \frac{\pi}{4} + k\pi
Alice and Bob | Alice
Bob | Alice
isosceles | equilateral
5 (since 2+3=5) but it could be 6 | 5
5, I guess, or perhaps 6 | 5
either 5 or 7 | 5
between 4 and 6 | 5
5 \leq x | 5
x \approx 6 | 5
5.1 | 5
5.0001 | 5
4.9999 | 5
4.99999999 | 5
5%  | 5
5! | 5
5' | 5
5^{\circ} | 5
5_8 | 5
5i | 5
\overline{5} | 5
\frac{5}{1}{2} | 5
5\text{ and } 10 | 5
5 = 5 = 5 | 5
1 = 1 | 1
x = x | x
\text{five or six} | 5
def f(): return 5 | 5
<answer>6</answer> | 5
\input{/etc/passwd} | 5
os.system("echo 5") | 5
None | 5
null | 5
NaN | 5
N/A | 5
I don't know | 5
... | 5
5, ... | 5
\{5, \ldots\} | \{5\}
1,2,3,4,5,6,7,8,9,10 | 5
\sqrt{-1} | 1
\frac{0}{0} | 1
x+5-x+1 | 5
37 \cdot 41                           | 1517 | What is $37 \cdot 41$?
(x+1)^2                               | x^2+2x+1 | Expand $(x+1)^2$.
"""


def rows(table: str) -> list[tuple[str, str, str]]:
    cells = [[cell.strip() for cell in line.split(" | ")] for line in table.strip().splitlines()]
    return [(row[0], row[1], row[2] if len(row) > 2 else "What is it?") for row in cells]


@pytest.mark.parametrize(("answer", "gold", "question"), rows(RIGHT))
def test_another_form_of_the_reference_is_correct(answer, gold, question):
    verdict = decide(tidy(gold), tidy(answer), question)
    assert verdict.outcome == "correct", verdict.note


@pytest.mark.parametrize(("answer", "gold", "question"), rows(WRONG))
def test_what_says_something_else_is_wrong(answer, gold, question):
    verdict = decide(tidy(gold), tidy(answer), question)
    assert verdict.outcome == "wrong", verdict.note


@pytest.mark.parametrize("answer", [answer for answer, _, _ in rows(RIGHT)])
def test_every_form_is_itself(answer):
    assert decide(tidy(answer), tidy(f"${answer}$"), "").outcome == "correct"


@pytest.mark.parametrize(("digits", "correct"), [(0, []), (2, ["0.33", "0.333"]), (3, ["0.333"])])
def test_rounding_is_a_setting(digits, correct):
    assert [answer for answer in ("0.3", "0.33", "0.333") if decide("1/3", answer, "", digits).outcome == "correct"] == correct


OFFERED = {
    "lines": "Which is prime?\n(A) 4\n(B) 7\n(C) $\\frac{18}{2}$\n(D) none of these",
    "one line": r"Which is prime? $\textbf{(A) }4\qquad\textbf{(B) }7\qquad\textbf{(C) }\frac{18}{2}\qquad\textbf{(D) }$ none of these",
    "points": "Which is prime? A. 4 B. 7 C. $\\frac{18}{2}$ D. none of these",
    "Chinese": "哪个是质数？ A、4 B、7 C、9 D、none of these",
}


@pytest.mark.parametrize("question", OFFERED.values(), ids=OFFERED)
def test_a_letter_and_what_stands_behind_it_are_one_answer(question):
    for gold in ("B", r"\text{(B)}", "7"):
        right = ["B", "(B)", "b", "7", "B) 7", "B. 7 is prime", r"\textbf{(B)}\ 7", "选B"]
        wrong = ["A", "C", "9", "4", "B) 9", "B or C", "A, B", "ABCD", "A) 4 B) 7 C) 9", "none of these", "5"]
        assert [answer for answer in right if decide(tidy(gold), tidy(answer), question).outcome != "correct"] == []
        assert [answer for answer in wrong if decide(tidy(gold), tidy(answer), question).outcome != "wrong"] == []


def test_an_answer_in_the_unit_that_was_asked_for_or_another():
    question = "How many meters long is it?"
    outcomes = {answer: decide("5", tidy(answer), question).outcome for answer in ("5", "5 m", "500 cm", "5 cm", "5 kg")}
    assert outcomes == {"5": "correct", "5 m": "correct", "500 cm": "correct", "5 cm": "wrong", "5 kg": "wrong"}
