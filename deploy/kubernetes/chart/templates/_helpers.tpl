{{- define "multipath-exporter.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "multipath-exporter.image" -}}
image: {{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- with .Values.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
{{- end }}

{{- /* Puts the values into a text of files/rules.yaml. Arguments: the text and the values. */}}
{{- define "multipath-exporter.ruleText" -}}
{{- $text := index . 0 }}{{ $values := index . 1 }}
{{- $selector := trim $values.selector }}
{{- if $selector }}
{{- $text = $text | replace "<<selector>>" $selector }}
{{- else }}
{{- $text = $text | replace "{<<selector>>}" "" | replace "{<<selector>>," "{" }}
{{- end }}
{{- $runbook := $values.runbookURL | replace "$" "$$" | replace "%s" "${1}" }}
{{- $text = regexReplaceAll "<<runbookURL>>([A-Za-z]+)" $text $runbook }}
{{- $text | replace "<<jobSelector>>" (trim $values.jobSelector) | replace "<<clusterLabel>>" $values.clusterLabel }}
{{- end }}
